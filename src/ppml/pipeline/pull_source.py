"""The source of a pull that the command line gives: a bundle or a remote, as a path or as an address."""

from __future__ import annotations

import http.client
import re
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, urlsplit

from ppml.errors import UserError
from ppml.pipeline.bundle import BundleError, take_bundle
from ppml.pipeline.dvc_remote import DVC_FILES, Objects

SECONDS = 60.0
"""The time limit of a server's reply."""
WEB_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)
"""The parts of urllib for http and https. The default ones also follow a redirect to ftp."""


def is_bundle(source: str) -> bool:
    """Return whether a source is a bundle: a local file, or an address that ends with ``.tar``."""
    if _scheme(source):
        return _parts(source).path.endswith(".tar")
    return bool(source) and _path(source).is_file()


def remote_address(source: str) -> str:
    """Return the address of a remote for DVC; an empty source stays empty.

    Raises
    ------
    UserError
        The source is neither a folder nor an address of a web server.
    """
    if _scheme(source):
        return _parts(source).geturl()
    if not source:
        return ""
    path = _path(source)
    if not path.is_dir():
        raise UserError(f"FROM: {source}: there is no such file or folder")
    return str(path.absolute())


def fetch_bundle(root: Path, source: str, objects: Objects, lists: Mapping[str, str]) -> None:
    """Bring the objects of a bundle into DVC's cache.

    Raises
    ------
    UserError
        The bundle cannot be read, or is refused; no file of the project is changed.
    """
    # No file is larger than all files of its folder.
    sizes = [re.search(r"^ *size: (\d{1,15})$", _text(root / name), re.MULTILINE) for name in DVC_FILES]
    largest = max(int(found[1]) if found else 0 for found in sizes)
    try:
        with _open(source) as stream:
            take_bundle(stream, objects, lists, largest)
    except BundleError as error:
        reason = str(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # A reason of urllib is an error itself. A server chooses the text of its reply.
        text = str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error)[:200]
        reason = f"cannot be read: {''.join(letter if letter.isprintable() else '?' for letter in text)}"
    else:
        return
    raise UserError(f"the bundle {_shown(source)}: {reason}; nothing was pulled")


def _open(source: str) -> AbstractContextManager[IO[bytes]]:
    if not _scheme(source):
        return _path(source).open("rb")
    # An error of urllib would quote the password.
    if "@" in _parts(source).netloc:
        raise UserError("FROM: an address of a bundle has no user name and no password; download it, then FROM=FILE")
    if not re.fullmatch("[!-~]+", source):
        raise UserError(f"FROM: {_shown(source)!a}: write a space as %20, and other letters in the same way")
    opener = urllib.request.OpenerDirector()
    for handler in WEB_HANDLERS:
        opener.add_handler(handler())
    stream: AbstractContextManager[IO[bytes]] = opener.open(source, timeout=SECONDS)
    return stream


def _scheme(source: str) -> str:
    found = re.match(r"([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE)
    return found[1].lower() if found else ""


def _parts(source: str) -> SplitResult:
    """Return the parts of an address, or raise a :class:`UserError` without a password or token."""
    if _scheme(source) not in ("http", "https"):
        raise UserError(f"FROM: {_scheme(source)}: a path, http or https is allowed; others: `dvc remote add --local`")
    try:
        parts = urlsplit(source)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError("FROM: the address is not valid; for instance https://example.org/bundle.tar is")
    return parts


def _shown(source: str) -> str:
    """Return a source without a password or token."""
    if not _scheme(source):
        return source
    parts = _parts(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:
        # No user has this name.
        return Path(source)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
