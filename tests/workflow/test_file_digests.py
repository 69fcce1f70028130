"""The SHA-256 of a file is computed once as long as the file does not change."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ppml.pipeline.file_digests import FileDigests
from tests.workflow.clock import wait_for_clock_tick
from tests.workflow.records import replace_bytes


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("content")
    return str(tmp_path / "file")


def again(digests: FileDigests, path: Path) -> FileDigests:
    digests.save()
    return FileDigests(path)


def test_digest_is_sha256_or_none_without_file(file: str, tmp_path: Path) -> None:
    digests = FileDigests(tmp_path / "known" / "files.json")
    assert digests.sha256(file) == hashlib.sha256(b"content").hexdigest()
    assert digests.sha256(str(tmp_path / "absent")) is None
    Path(file).unlink()
    assert digests.sha256(file) is not None
    digests.reload()
    assert digests.sha256(file) is None


def test_file_is_read_again_only_after_a_change(file: str, tmp_path: Path) -> None:
    path = tmp_path / "files.json"
    digests = FileDigests(path)
    first = digests.sha256(file)
    digests.save()
    # The cache decides until a change of the file.
    content = json.loads(path.read_text())
    content[file][-1] = "noted"
    path.write_text(json.dumps(content))
    digests = FileDigests(path)
    assert digests.sha256(file) == "noted"
    replace_bytes(file, "CONTENT")
    digests.reload()
    assert digests.sha256(file) == hashlib.sha256(b"CONTENT").hexdigest() != first
    digests = again(digests, path)
    # Another file with the same time and size.
    stat = Path(file).stat()
    wait_for_clock_tick(tmp_path)
    Path(file).with_suffix(".new").write_text("another")
    os.utime(Path(file).with_suffix(".new"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    Path(file).with_suffix(".new").replace(file)
    assert digests.sha256(file) == hashlib.sha256(b"another").hexdigest()


@pytest.mark.parametrize(
    "content", ["", "{", "\0\0", "[]", "[1]", '{"a": 1}', '{"a": []}', '{"a": [1, 2]}', "[" * 100_000]
)
def test_damaged_cache_counts_as_missing(file: str, tmp_path: Path, content: str) -> None:
    path = tmp_path / "files.json"
    path.write_text(content.replace('"a"', json.dumps(file)))
    digests = FileDigests(path)
    assert digests.sha256(file) == hashlib.sha256(b"content").hexdigest()
    assert again(digests, path).sha256(file) == hashlib.sha256(b"content").hexdigest()


def test_cache_forgets_removed_files(file: str, tmp_path: Path) -> None:
    path = tmp_path / "files.json"
    digests = FileDigests(path)
    digests.sha256(file)
    Path(file).unlink()
    digests.save()
    assert json.loads(path.read_text()) == {}


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "place"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    digests = FileDigests(tmp_path / "files.json")
    assert digests.sha256(str(path)) is None
    assert digests.sha256("a\0b") is None
