"""Where the published files come from: what is there, local mirrors, public mirrors. Nothing unchecked is used."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppml.config.datasets import DatasetSpec
from ppml.config.paths import expand_path
from ppml.errors import UserError
from ppml.io.atomic import atomic_write, write_bytes

PROBE_SECONDS = 5
DOWNLOAD_SECONDS = 60
MIRRORS = "PPML_DATA_MIRROR"
"""Names, in the environment, local mirrors that go before those of the configuration, separated like PATH."""


@dataclass(frozen=True)
class RemoteFile:
    """One published file.

    Parameters
    ----------
    name : str
        File name.
    md5 : str
        The checksum that torchvision publishes.
    urls : tuple of str
        Public mirrors, best first.
    """

    name: str
    md5: str
    urls: tuple[str, ...]


def published_files(spec: DatasetSpec) -> tuple[RemoteFile, ...]:
    """Return the training and test files of a data set; torchvision's class lists those that it knows."""
    if not spec.torchvision:
        return tuple(RemoteFile(file.name, file.md5, file.urls) for file in spec.files)
    from torchvision import datasets

    cls: Any = getattr(datasets, spec.torchvision)
    if isinstance(cls.resources, dict):  # QMNIST: whole addresses, by part
        pairs = [pair for part in ("train", "test") for pair in cls.resources[part]]
        return tuple(RemoteFile(url.rsplit("/", 1)[1], md5, (url,)) for url, md5 in pairs)
    return tuple(RemoteFile(name, md5, tuple(mirror + name for mirror in cls.mirrors)) for name, md5 in cls.resources)


def local_candidates(dataset: str, name: str, mirrors: Iterable[str]) -> list[Path]:
    """Return the places where local mirrors may hold a file: ``<mirror>/<dataset>/<file>``, with - or _ in the name.

    Raises
    ------
    UserError
        ``PPML_DATA_MIRROR`` holds what is no path of a folder.
    """
    folders = dict.fromkeys((dataset, dataset.replace("_", "-")))
    return [Path(mirror) / folder / name for mirror in (*_mirrors_of_environment(), *mirrors) for folder in folders]


def _mirrors_of_environment() -> list[str]:
    try:
        return [expand_path(part) for part in os.environ.get(MIRRORS, "").split(os.pathsep) if part]
    except ValueError as error:
        raise UserError(f"{MIRRORS}: got {os.environ[MIRRORS]!r}; {error}") from None


def available(dataset: str, spec: DatasetSpec, raw: Path, mirrors: Sequence[str], *, download: bool) -> bool:
    """Return whether every file of ``dataset`` lies in ``raw``, in a local mirror or behind a public one that answers.

    This decides whether the fallback is used, before anything runs; checksums are compared when the files are fetched.
    A local mirror that cannot be read is passed over. A public mirror is asked only where a file is nowhere near, and
    has five seconds to answer.
    """
    missing = {name for name in spec.file_names if not _nearby(dataset, name, raw, mirrors, [])}
    if not missing or not download:
        return not missing
    return all(any(map(_answers, file.urls)) for file in published_files(spec) if file.name in missing)


def unreadable(dataset: str, spec: DatasetSpec, raw: Path, mirrors: Sequence[str]) -> list[str]:
    """Return, in a line for each folder, which files of ``dataset`` a local mirror has and does not let this user read.

    Mirrors that are not asked, because another one before them has the file, are not looked at.
    """
    passed: list[OSError] = []
    for name in spec.file_names:
        _nearby(dataset, name, raw, mirrors, passed)
    causes: dict[tuple[Path, str], list[str]] = {}
    for error in passed:
        path = Path(error.filename)
        causes.setdefault((path.parent, error.strerror or "unknown error"), []).append(path.name)
    return [
        f"{folder}: {', '.join(names)} cannot be read ({cause}); the next source is tried"
        for (folder, cause), names in causes.items()
    ]


def _nearby(dataset: str, name: str, raw: Path, mirrors: Sequence[str], passed: list[OSError]) -> bool:
    """Return whether a file lies in ``raw`` or a local mirror; collect the errors of those that cannot be read."""
    # One in raw that cannot be read is there: fetching it says what is wrong.
    if os.path.lexists(raw / name):
        return True
    for candidate in local_candidates(dataset, name, mirrors):
        try:
            if _is_there(candidate):
                with candidate.open("rb"):
                    return True
        except OSError as error:
            passed.append(error)
    return False


def _is_there(path: Path) -> bool:
    """Return whether a file is there; unlike :meth:`Path.is_file`, raise an error only where that cannot be told."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def fetch(file: RemoteFile, dataset: str, raw: Path, mirrors: Sequence[str], *, download: bool) -> str:
    """Bring ``file`` into ``raw`` with the right checksum and return where it came from.

    A source that cannot be read, or that has another file of this name, is passed over for the next one.

    Raises
    ------
    UserError
        A file with another checksum lies in ``raw``, or no source has the file; the message names the file, both sums
        and the source.
    """
    target = raw / file.name
    if _is_there(target):
        require_checksum(target, file)
        return "already there"
    tried: list[str] = []
    passed: list[str] = []
    for candidate in local_candidates(dataset, file.name, mirrors):
        content, problem = _read(candidate, file)
        if content is not None:
            write_bytes(target, content)
            return _after(str(candidate), passed)
        tried.append(f"{candidate}: {problem}" if problem else str(candidate))
        passed += tried[-1:] if problem else []
    for url in file.urls if download else ():
        try:
            with atomic_write(target) as temporary:
                _download(url, temporary)
                if problem := _wrong_sum(md5(temporary), file):
                    raise UserError(problem)
            return _after(url, passed)
        except (UserError, urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            tried.append(f"{url}: {' '.join(str(error).split())}")
    raise UserError(
        f"{dataset}: no source has {file.name}; tried {'; '.join(tried) or 'nothing'}. Put the file into {raw}, name a "
        "folder that has it in data.mirrors or PPML_DATA_MIRROR, or allow data.download"
    )


def _read(path: Path, file: RemoteFile) -> tuple[bytes | None, str]:
    """Return the content of a file in a local mirror; None where it cannot be used, with why if it is there."""
    try:
        content = path.read_bytes() if _is_there(path) else None
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if content is None:
        return None, ""
    problem = _wrong_sum(hashlib.md5(content, usedforsecurity=False).hexdigest(), file)
    return (None, f"{problem} (source: local mirror)") if problem else (content, "")


def _after(source: str, passed: Sequence[str]) -> str:
    """Return a source, with what is wrong with the local ones that have the file and were passed over."""
    return f"{source}; passed over: {'; '.join(passed)}" if passed else source


def md5(path: Path) -> str:
    """Return the MD5 of a file, the sum that torchvision publishes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def require_checksum(path: Path, file: RemoteFile) -> None:
    """Raise a :class:`UserError` unless ``path`` has the published checksum."""
    problem = _wrong_sum(md5(path), file)
    if problem:
        raise UserError(f"{path}: {problem}; move it elsewhere, and run again")


def _wrong_sum(found: str, file: RemoteFile) -> str:
    """Return what is wrong with a file that has the MD5 ``found``, empty if nothing is."""
    if found == file.md5:
        return ""
    return (
        f"has MD5 {found}, but {file.name} is published with {file.md5}; it is corrupted, truncated or another file, "
        "and is not used"
    )


def _answers(url: str) -> bool:
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
