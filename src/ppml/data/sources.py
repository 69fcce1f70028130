"""The sources of published files: data/raw, local mirrors, public mirrors. Every file is checked before its use."""

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
"""The environment variable with local mirrors, separated like PATH; they precede those of the configuration."""


@dataclass(frozen=True)
class RemoteFile:
    """One published file.

    Parameters
    ----------
    name : str
        The file name.
    md5 : str
        The checksum that torchvision publishes.
    urls : tuple of str
        Public mirrors, best first.
    """

    name: str
    md5: str
    urls: tuple[str, ...]


def published_files(spec: DatasetSpec) -> tuple[RemoteFile, ...]:
    """Return the training and test files of a data set; the class of torchvision lists its own files."""
    if not spec.torchvision:
        return tuple(RemoteFile(file.name, file.md5, file.urls) for file in spec.files)
    from torchvision import datasets

    cls: Any = getattr(datasets, spec.torchvision)
    if isinstance(cls.resources, dict):  # QMNIST: whole addresses, by part
        pairs = [pair for part in ("train", "test") for pair in cls.resources[part]]
        return tuple(RemoteFile(url.rsplit("/", 1)[1], md5, (url,)) for url, md5 in pairs)
    return tuple(RemoteFile(name, md5, tuple(mirror + name for mirror in cls.mirrors)) for name, md5 in cls.resources)


def local_candidates(dataset: str, name: str, mirrors: Iterable[str]) -> list[Path]:
    """Return the possible paths of a file in local mirrors: ``<mirror>/<dataset>/<file>``, with - or _ in the name.

    Raises
    ------
    UserError
        A part of ``PPML_DATA_MIRROR`` is no path of a folder.
    """
    folders = dict.fromkeys((dataset, dataset.replace("_", "-")))
    return [Path(mirror) / folder / name for mirror in (*_mirrors_of_environment(), *mirrors) for folder in folders]


def _mirrors_of_environment() -> list[str]:
    try:
        return [expand_path(part) for part in os.environ.get(MIRRORS, "").split(os.pathsep) if part]
    except ValueError as error:
        raise UserError(f"{MIRRORS}: got {os.environ[MIRRORS]!r}; {error}") from None


def available(dataset: str, spec: DatasetSpec, raw: Path, mirrors: Sequence[str], *, download: bool) -> bool:
    """Return whether every file of ``dataset`` is in ``raw``, in a local mirror or on a public mirror that answers.

    This check decides about the fallback before the first job; the stage fetch compares checksums. An unreadable local
    mirror is skipped. Public mirrors are requested only for files without a local source, with a timeout of five
    seconds.
    """
    missing = {name for name in spec.file_names if not _nearby(dataset, name, raw, mirrors, [])}
    if not missing or not download:
        return not missing
    return all(any(map(_answers, file.urls)) for file in published_files(spec) if file.name in missing)


def unreadable(dataset: str, spec: DatasetSpec, raw: Path, mirrors: Sequence[str]) -> list[str]:
    """Return a line for each folder of a local mirror with files of ``dataset`` that this user cannot read.

    Only mirrors before the first readable source of a file are checked.
    """
    skipped: list[OSError] = []
    for name in spec.file_names:
        _nearby(dataset, name, raw, mirrors, skipped)
    causes: dict[tuple[Path, str], list[str]] = {}
    for error in skipped:
        path = Path(error.filename)
        causes.setdefault((path.parent, error.strerror or "unknown error"), []).append(path.name)
    return [
        f"{folder}: {', '.join(names)} cannot be read ({cause}); the next source is tried"
        for (folder, cause), names in causes.items()
    ]


def _nearby(dataset: str, name: str, raw: Path, mirrors: Sequence[str], skipped: list[OSError]) -> bool:
    """Return whether a file is in ``raw`` or a local mirror; add the errors of unreadable ones to ``skipped``."""
    # An unreadable file in raw counts: the stage fetch reports its error.
    if os.path.lexists(raw / name):
        return True
    for candidate in local_candidates(dataset, name, mirrors):
        try:
            if _is_file(candidate):
                with candidate.open("rb"):
                    return True
        except OSError as error:
            skipped.append(error)
    return False


def _is_file(path: Path) -> bool:
    """Return whether a file exists; unlike :meth:`Path.is_file`, raise an error if the folder is unreadable."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def fetch(file: RemoteFile, dataset: str, raw: Path, mirrors: Sequence[str], *, download: bool) -> str:
    """Copy or download ``file`` into ``raw``, check it, and return its source.

    A source that is unreadable, or has a file with another checksum, is skipped.

    Raises
    ------
    UserError
        A file in ``raw`` has another checksum, or no source has the file; the message names the file, both checksums
        and the source.
    """
    target = raw / file.name
    if _is_file(target):
        require_checksum(target, file)
        return "already there"
    tried: list[str] = []
    skipped: list[str] = []
    for candidate in local_candidates(dataset, file.name, mirrors):
        content, problem = _read(candidate, file)
        if content is not None:
            write_bytes(target, content)
            return _source_text(str(candidate), skipped)
        tried.append(f"{candidate}: {problem}" if problem else str(candidate))
        skipped += tried[-1:] if problem else []
    for url in file.urls if download else ():
        try:
            with atomic_write(target) as temporary:
                _download(url, temporary)
                if problem := _wrong_checksum(md5(temporary), file):
                    raise UserError(problem)
            return _source_text(url, skipped)
        except (UserError, urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            tried.append(f"{url}: {' '.join(str(error).split())}")
    raise UserError(
        f"{dataset}: no source has {file.name}; tried {'; '.join(tried) or 'nothing'}. Put the file into {raw}, name a "
        "folder that has it in data.mirrors or PPML_DATA_MIRROR, or allow data.download"
    )


def _read(path: Path, file: RemoteFile) -> tuple[bytes | None, str]:
    """Return the content of a file in a local mirror and no problem; None and the problem, empty if it is absent."""
    try:
        content = path.read_bytes() if _is_file(path) else None
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if content is None:
        return None, ""
    problem = _wrong_checksum(hashlib.md5(content, usedforsecurity=False).hexdigest(), file)
    return (None, f"{problem} (source: local mirror)") if problem else (content, "")


def _source_text(source: str, skipped: Sequence[str]) -> str:
    """Return a source, with the problems of skipped local mirrors."""
    return f"{source}; skipped: {'; '.join(skipped)}" if skipped else source


def md5(path: Path) -> str:
    """Return the MD5 of a file, the checksum of torchvision."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def require_checksum(path: Path, file: RemoteFile) -> None:
    """Raise a :class:`UserError` unless ``path`` has the published checksum."""
    problem = _wrong_checksum(md5(path), file)
    if problem:
        raise UserError(f"{path}: {problem}; move it elsewhere, and run again")


def _wrong_checksum(found: str, file: RemoteFile) -> str:
    """Return the problem of a file with the MD5 ``found``, empty if it is the right one."""
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
