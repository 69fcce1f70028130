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
from pathlib import Path
from typing import Any

from ppml.config.datasets import Dataset, FileSpec
from ppml.config.paths import expand_path
from ppml.errors import UserError
from ppml.io.atomic import atomic_write, write_bytes

PROBE_SECONDS = 5
DOWNLOAD_SECONDS = 60
MIRRORS = "PPML_DATA_MIRROR"
"""The environment variable with local mirrors, separated like PATH; they precede those of the configuration."""


def file_key(file: FileSpec) -> str:
    """Return the key of a file among the inputs of a job: the name of a published file, or the path of one's own."""
    return file.name or str(file.path)


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


def available(dataset: str, spec: Dataset, raw: Path, mirrors: Sequence[str], *, download: bool) -> bool:
    """Return whether every file of ``dataset`` is in ``raw``, in a local mirror or on a public mirror that answers.

    This check decides about the fallback before the first job; the stage fetch compares checksums. An unreadable local
    mirror is skipped. Public mirrors are requested only for files without a local source, with a timeout of five
    seconds.
    """
    missing = {name for name in spec.file_names if not _nearby(dataset, name, raw, mirrors, [])}
    if not missing or not download:
        return not missing
    return all(any(map(_answers, file.urls)) for file in spec.files if file.name in missing)


def unreadable(dataset: str, spec: Dataset, raw: Path, mirrors: Sequence[str]) -> list[str]:
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


def fetch(file: FileSpec, dataset: str, raw: Path, mirrors: Sequence[str], *, download: bool) -> str:
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
                if problem := _wrong_checksum(temporary, file):
                    raise UserError(problem)
            return _source_text(url, skipped)
        except (UserError, urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            tried.append(f"{url}: {' '.join(str(error).split())}")
    raise UserError(
        f"{dataset}: no source has {file.name}; tried {'; '.join(tried) or 'nothing'}. Put the file into {raw}, name a "
        "folder that has it in data.mirrors or PPML_DATA_MIRROR, or allow data.download"
    )


def _read(path: Path, file: FileSpec) -> tuple[bytes | None, str]:
    """Return the content of a file in a local mirror and no problem; None and the problem, empty if it is absent."""
    try:
        content = path.read_bytes() if _is_file(path) else None
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if content is None:
        return None, ""
    problem = _wrong_checksum(content, file)
    return (None, f"{problem} (source: local mirror)") if problem else (content, "")


def _source_text(source: str, skipped: Sequence[str]) -> str:
    """Return a source, with the problems of skipped local mirrors."""
    return f"{source}; skipped: {'; '.join(skipped)}" if skipped else source


def require_checksum(path: Path, file: FileSpec) -> None:
    """Raise a :class:`UserError` unless ``path`` has the stated checksums; a file of one's own may have none."""
    problem = _wrong_checksum(path, file)
    if problem and file.name:
        raise UserError(f"{path}: {problem}; move it elsewhere, and run again")
    if problem:
        raise UserError(f"{path}: {problem}; correct the checksum in data.define, or leave it out")


def _wrong_checksum(content: bytes | Path, file: FileSpec) -> str:
    """Return the problem of a file with another checksum, empty if it has the stated ones."""
    for name, stated in (("MD5", file.md5), ("SHA-256", file.sha256)):
        found = _digest(content, name) if stated else ""
        if found != stated and file.name:
            return (
                f"has {name} {found}, but {file.name} is published with {stated}; it is corrupted, truncated or "
                "another file, and is not used"
            )
        if found != stated:
            return f"has {name} {found}, but the configuration states {stated}"
    return ""


def _digest(content: bytes | Path, name: str) -> str:
    """Return the MD5, which some publishers state, or the SHA-256 of a content or a file."""

    def start() -> Any:
        return hashlib.md5(usedforsecurity=False) if name == "MD5" else hashlib.sha256()

    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, start).hexdigest()
    digest = start()
    digest.update(content)
    return str(digest.hexdigest())


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
