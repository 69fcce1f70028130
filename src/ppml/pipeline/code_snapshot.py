"""A copy of the code for the jobs of a run: later edits do not change it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ppml.io.atomic import TEMP_PREFIX

PLACE = Path(".snakemake/ppml/code")


def snapshot(package: Path, place: Path = PLACE) -> Path:
    """Copy a package, unless there is a copy already, and return the copy; its folder is named by its content."""
    files = _read(package)
    folder = place.absolute() / _digest(files)
    copy = folder / package.name
    # A power cut may have emptied files of a copy.
    if _read(copy) != files:
        shutil.rmtree(folder, ignore_errors=True)
        unfinished = place.absolute() / f"{TEMP_PREFIX}{os.urandom(4).hex()}"
        for name, content in files.items():
            path = unfinished / package.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        unfinished.replace(folder)
    return copy


def remove_old_snapshots(copy: Path) -> None:
    """Remove the copies that earlier runs have left."""
    for folder in copy.parent.parent.iterdir():
        if folder != copy.parent:
            shutil.rmtree(folder, ignore_errors=True)


def _read(package: Path) -> dict[str, bytes]:
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(package.rglob("*.py"))}


def _digest(files: Mapping[str, bytes]) -> str:
    total = hashlib.sha256()
    for name, content in files.items():
        total.update(f"{name} {len(content)} ".encode() + content)
    return total.hexdigest()[:16]
