"""Where the published files come from: what is there, local mirrors, public mirrors. Nothing unchecked is used."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppml.data.catalogue import CATALOGUE, dataset_info
from ppml.errors import UserError
from ppml.records.files import atomic

PROBE_SECONDS = 5
DOWNLOAD_SECONDS = 60


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


def published_files(dataset: str) -> tuple[RemoteFile, ...]:
    """Return the train and test files of ``dataset``, as torchvision's class lists them."""
    from torchvision import datasets

    cls: Any = getattr(datasets, CATALOGUE[dataset].torchvision_class)
    if isinstance(cls.resources, dict):  # QMNIST: whole addresses, by part
        pairs = [pair for part in ("train", "test") for pair in cls.resources[part]]
        return tuple(RemoteFile(url.rsplit("/", 1)[1], md5, (url,)) for url, md5 in pairs)
    return tuple(RemoteFile(name, md5, tuple(mirror + name for mirror in cls.mirrors)) for name, md5 in cls.resources)


def local_candidates(dataset: str, name: str, mirrors: Iterable[str]) -> list[Path]:
    """Return the places where local mirrors may hold a file: ``<mirror>/<dataset>/<file>``, with - or _ in the name."""
    extra = [part for part in os.environ.get("PPML_DATA_MIRROR", "").split(os.pathsep) if part]
    folders = dict.fromkeys((dataset, dataset.replace("_", "-")))
    return [Path(mirror) / folder / name for mirror in (*extra, *mirrors) for folder in folders]


def available(dataset: str, raw: Path, mirrors: Sequence[str], *, download: bool) -> bool:
    """Return whether every file of ``dataset`` lies in ``raw``, in a local mirror or behind a public one that answers.

    This decides whether the fallback is used, before anything runs; checksums are compared when the files are fetched.
    A public mirror is asked only where a file is nowhere near, and has five seconds to answer.
    """
    missing = {
        name
        for name in dataset_info(dataset).files
        if not any(path.is_file() for path in (raw / name, *local_candidates(dataset, name, mirrors)))
    }
    if not missing or not download:
        return not missing
    return all(any(map(_answers, file.urls)) for file in published_files(dataset) if file.name in missing)


def fetch(file: RemoteFile, dataset: str, raw: Path, mirrors: Sequence[str], *, download: bool) -> str:
    """Bring ``file`` into ``raw`` with the right checksum and return where it came from.

    Raises
    ------
    UserError
        A file with another checksum was found, or no source has it; the message names the file, both sums and the
        source.
    """
    target = raw / file.name
    if target.is_file():
        require_checksum(target, file, str(raw))
        return "already there"
    for candidate in local_candidates(dataset, file.name, mirrors):
        if candidate.is_file():
            require_checksum(candidate, file, "local mirror")
            with atomic(target) as temporary:
                temporary.write_bytes(candidate.read_bytes())
            return str(candidate)
    problems: list[str] = []
    for url in file.urls if download else ():
        try:
            with atomic(target) as temporary:
                _download(url, temporary)
                problem = _wrong_checksum(temporary, file)
                if problem:
                    raise UserError(problem)
            return url
        except (UserError, urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            problems.append(f"{url}: {' '.join(str(error).split())}")
    tried = [*map(str, local_candidates(dataset, file.name, mirrors)), *problems]
    raise UserError(
        f"{dataset}: no source has {file.name}; tried {'; '.join(tried) or 'nothing'}. Put the file into {raw}, name a "
        "folder that has it in data.mirrors or PPML_DATA_MIRROR, or allow data.download"
    )


def md5(path: Path) -> str:
    """Return the MD5 of a file, the sum that torchvision publishes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def require_checksum(path: Path, file: RemoteFile, source: str) -> None:
    """Raise a :class:`UserError` unless ``path`` has the published checksum; ``source`` is where it came from."""
    problem = _wrong_checksum(path, file)
    if problem:
        raise UserError(f"{path}: {problem} (source: {source}): delete it and run again")


def _wrong_checksum(path: Path, file: RemoteFile) -> str | None:
    found = md5(path)
    if found == file.md5:
        return None
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
