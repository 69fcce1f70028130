"""The source of a pull that the command line gives: a bundle or a remote, as a path or as an address."""

from __future__ import annotations

import http.client
import re
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from ppml.errors import UserError
from ppml.pipeline.bundle import BundleError, take_bundle
from ppml.pipeline.dvc_remote import DVC_FILES, Objects

SECONDS = 60.0
"""The time limit of a server's reply."""


def is_bundle(source: str) -> bool:
    """Return whether a source is a bundle: a local file, or an address that ends with ``.tar``."""
    if _scheme(source):
        return urlsplit(source).path.endswith(".tar")
    return bool(source) and Path(source).expanduser().is_file()


def remote_address(source: str) -> str:
    """Return the address of a remote for DVC; an empty source stays empty.

    Raises
    ------
    UserError
        The source is neither a folder nor an address of a web server.
    """
    if not source or _scheme(source) in ("http", "https"):
        return source
    if _scheme(source):
        raise UserError(f"FROM: {_scheme(source)}: a path, http or https is allowed; others: `dvc remote add --local`")
    path = Path(source).expanduser()
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
        # A reason of urllib is an error itself.
        reason = f"cannot be read: {getattr(error, 'strerror', None) or getattr(error, 'reason', None) or error}"
    else:
        return
    raise UserError(f"the bundle {_shown(source)}: {reason}; nothing was pulled")


def _open(source: str) -> AbstractContextManager[IO[bytes]]:
    if _scheme(source) in ("http", "https"):
        stream: AbstractContextManager[IO[bytes]] = urllib.request.urlopen(source, timeout=SECONDS)
        return stream
    return Path(remote_address(source) if _scheme(source) else source).expanduser().open("rb")


def _scheme(source: str) -> str:
    found = re.match(r"([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE)
    return found[1].lower() if found else ""


def _shown(source: str) -> str:
    """Return a source without a password or token."""
    return re.sub(r"(?<=://)[^/@]*@", "", source.partition("?")[0]) if _scheme(source) else source


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
