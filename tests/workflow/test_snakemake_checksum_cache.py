"""Snakemake reads a file once for as long as nothing touches it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

from snakemake.io import _IOFile

from ppml.pipeline.snakemake_checksum_cache import _remembering, remember
from tests.workflow.clock import wait_for_a_tick


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_read_once_until_it_is_touched(tmp_path: Path) -> None:
    asked: list[str] = []

    async def read(self: SimpleNamespace, threshold: object, force: object, algorithm: object) -> str:
        asked.append(self.file)
        return sha256(Path(self.file))

    checksum = _remembering(read)
    file = SimpleNamespace(file=str(tmp_path / "file"))
    Path(file.file).write_text("one")
    first = [asyncio.run(checksum(file, 10)) for _ in range(3)]
    assert first == [sha256(Path(file.file))] * 3 and len(asked) == 1
    # Of the same length, and with its old time put back.
    stat = Path(file.file).stat()
    wait_for_a_tick(tmp_path)
    Path(file.file).write_text("two")
    os.utime(file.file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert asyncio.run(checksum(file, 10)) == sha256(Path(file.file)) != first[0]
    # Another limit is another question; a file that is gone is Snakemake's to tell of.
    asyncio.run(checksum(file, 20))
    assert len(asked) == 3


def test_snakemake_is_taught_once() -> None:
    before = _IOFile.checksum
    try:
        remember()
        taught = _IOFile.checksum
        remember()
        assert _IOFile.checksum is taught and taught.asked is before
    finally:
        _IOFile.checksum = before
