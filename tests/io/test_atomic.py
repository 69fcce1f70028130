import errno
import json
import os
import stat
from pathlib import Path

import pytest

from ppml.io.atomic import atomic_write, read_json, write_bytes, write_json, write_text
from ppml.io.private_file import write_private


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_creates_missing_folders(tmp_path):
    write_text(tmp_path / "a" / "b" / "x.csv", "ε\n")
    assert (tmp_path / "a" / "b" / "x.csv").read_bytes() == "ε\n".encode()
    assert names(tmp_path / "a" / "b") == ["x.csv"]


def test_path_does_not_exist_during_the_write(tmp_path):
    with atomic_write(tmp_path / "x.csv") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "x.csv").exists()
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".csv")
    assert (tmp_path / "x.csv").read_text() == "half"


@pytest.mark.parametrize("old", [None, "old"])
def test_exception_keeps_the_previous_file(old, tmp_path):
    target = tmp_path / "x.csv"
    if old:
        target.write_text(old)
    with pytest.raises(ValueError, match="stop"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert names(tmp_path) == (["x.csv"] if old else [])
    assert not old or target.read_text() == old


def test_full_disk_keeps_the_previous_file_and_is_named(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    write_json(target, "old")

    def fill_up(path, data):
        with path.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(OSError) as caught:
        write_json(target, "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    monkeypatch.undo()
    assert names(tmp_path) == ["x.json"]
    assert read_json(target) == "old"


def test_error_of_fsync_is_raised(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "x.bin", b"new")
    assert caught.value.filename == str(tmp_path / "x.bin")
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_error_of_a_full_device_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "x.bin") as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x.bin"))
    assert names(tmp_path) == []


def test_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "x.bin"):
        (tmp_path / "none").read_bytes()
    assert caught.value.filename == str(tmp_path / "none")


def test_folder_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_text(tmp_path / "file" / "below" / "x.csv", "")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "x.csv", "")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.csv").stat().st_mode) == 0o666 & ~mask


def test_equal_content_has_equal_json(tmp_path):
    write_json(tmp_path / "1.json", {"b": [1, 0.1], "a": {"y": None, "x": "ε"}})
    write_json(tmp_path / "2.json", {"a": {"x": "ε", "y": None}, "b": [1, 0.1]})
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    assert read_json(tmp_path / "1.json") == {"a": {"x": "ε", "y": None}, "b": [1, 0.1]}


def test_floats_survive_json_exactly(tmp_path):
    values = [0.1, 1e-300, 1 / 3, 2.0**-1074]
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json") == values


def test_invalid_json_content_writes_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {1, 2})
    assert names(tmp_path) == []


def test_json_ends_in_one_newline(tmp_path):
    write_json(tmp_path / "x.json", [])
    assert (tmp_path / "x.json").read_text() == json.dumps([]) + "\n"


@pytest.mark.parametrize("old", [None, b"older"])
def test_private_file_with_content_is_never_readable_by_others(old, tmp_path, monkeypatch):
    target, modes, mask = tmp_path / "seed", [], os.umask(0)
    if old:
        target.write_bytes(old)
    original = os.fdopen

    def record_mode(number, mode):
        modes.append(stat.S_IMODE(os.fstat(number).st_mode))
        return original(number, mode)

    monkeypatch.setattr(os, "fdopen", record_mode)
    try:
        write_private(target, b"secret")
    finally:
        os.umask(mask)
    assert modes == [0o600] and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.read_bytes() == b"secret" and names(tmp_path) == ["seed"]
