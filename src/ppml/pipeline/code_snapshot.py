"""A copy of the code for the jobs of a run; later edits do not change it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ppml.io.atomic import TEMP_PREFIX

PLACE = Path(".snakemake/ppml/code")


def copy_code(package: Path, place: Path = PLACE) -> Path:
    """Return a copy of a package in a folder named by its content; equal code is copied once."""
    files = _read(package)
    folder = place.absolute() / _digest(files)
    copy = folder / package.name
    # A power failure can leave empty files in a copy.
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
    """Remove the copies of earlier runs."""
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
