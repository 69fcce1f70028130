"""The SHA-256 of a file is computed once for as long as nothing touches it, and of files alone."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ppml.pipeline.file_digests import Fingerprints
from tests.workflow.clock import wait_for_a_tick
from tests.workflow.records import rewrite


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("content")
    return str(tmp_path / "file")


def test_a_fingerprint_is_the_sha256_and_none_without_a_file(file: str, tmp_path: Path) -> None:
    known = Fingerprints(tmp_path / "known" / "files.json")
    assert known.sha256(file) == hashlib.sha256(b"content").hexdigest()
    assert known.sha256(str(tmp_path / "absent")) is None
    Path(file).unlink()
    assert known.sha256(file) is None


@pytest.mark.parametrize("kept", [True, False])
def test_a_file_is_read_again_when_it_was_written_and_only_then(file: str, tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "files.json"

    def again(known: Fingerprints) -> Fingerprints:
        known.save()
        return Fingerprints(path) if kept else known

    known = Fingerprints(path)
    first = known.sha256(file)
    known = again(known)
    # What was noted is what is returned, as long as nothing touches the file.
    known._known[file]["sha256"] = "noted"
    known = again(known)
    assert known.sha256(file) == "noted"
    rewrite(file, "CONTENT")
    assert known.sha256(file) == hashlib.sha256(b"CONTENT").hexdigest() != first
    known = again(known)
    # Replaced by a file with the same time and size.
    stat = Path(file).stat()
    wait_for_a_tick(tmp_path)
    Path(file).with_suffix(".new").write_text("another")
    os.utime(Path(file).with_suffix(".new"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    Path(file).with_suffix(".new").replace(file)
    assert known.sha256(file) == hashlib.sha256(b"another").hexdigest()


def test_at_rest_each_file_is_looked_at_once(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, looked = Fingerprints(tmp_path / "files.json"), []
    look_at = known._look
    monkeypatch.setattr(known, "_look", lambda name: looked.append(name) or look_at(name))
    absent = str(tmp_path / "absent")
    with known.at_rest():
        assert known.sha256(file) == known.sha256(file) == hashlib.sha256(b"content").hexdigest()
        assert known.sha256(absent) is known.sha256(absent) is None
    assert looked == [file, absent]
    rewrite(file, "CONTENT")
    with known.at_rest():
        assert known.sha256(file) == hashlib.sha256(b"CONTENT").hexdigest()
    Path(file).unlink()
    assert known.sha256(file) is None


def test_files_that_are_gone_are_forgotten(file: str, tmp_path: Path) -> None:
    path = tmp_path / "files.json"
    known = Fingerprints(path)
    known.sha256(file)
    known.sha256(str(tmp_path / "absent"))
    known.save()
    assert set(json.loads(path.read_text())) == {file}
    Path(file).unlink()
    known.save()
    assert json.loads(path.read_text()) == {}


def test_a_record_is_believed_by_its_time_once_and_by_the_bytes_from_then_on(file: str, tmp_path: Path) -> None:
    known = Fingerprints(tmp_path / "files.json")
    ended = Path(file).stat().st_mtime
    assert not known.made_by(file, ended + 1)
    assert not known.made_by(file, None)
    assert known.made_by(file, ended)
    wait_for_a_tick(tmp_path)
    os.utime(file, (1, 1))
    assert known.made_by(file, ended)
    assert not known.made_by(file, ended + 1)
    rewrite(file, "CONTENT")
    assert not known.made_by(file, ended)
    # The book knows these bytes: the record gets their time.
    assert known.describe(file) == 1.0
    assert known.made_by(file, 1.0)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "name"])
def test_what_is_no_file_has_no_fingerprint_and_is_not_read(tmp_path: Path, kind: str) -> None:
    """Reading some of them would never end."""
    known = Fingerprints(tmp_path / "files.json")
    path = tmp_path / "it"
    if kind == "pipe":
        os.mkfifo(path)
    names = {"folder": str(tmp_path), "pipe": str(path), "device": "/dev/zero", "name": "a\0b"}
    assert known.sha256(names[kind]) is None


@pytest.mark.parametrize("content", ["[]", "1", '{"a": 1}', "[" * 100_000, "\x00"])
def test_what_was_kept_and_is_damaged_is_computed_anew(file: str, tmp_path: Path, content: str) -> None:
    (tmp_path / "files.json").write_text(content)
    assert Fingerprints(tmp_path / "files.json").sha256(file) == hashlib.sha256(b"content").hexdigest()
