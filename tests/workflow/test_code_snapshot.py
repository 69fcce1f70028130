"""The copy of the code for jobs is complete, named by its content, and independent of later edits."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml.pipeline.code_snapshot import copy_code, remove_old_snapshots

FILES = {"__init__.py": "", "a.py": "A = 1\n", "parts/__init__.py": "", "parts/b.py": "B = 2\n"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "src" / "ppml" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "src" / "ppml"


def texts(copy: Path) -> dict[str, str]:
    return {path.relative_to(copy).as_posix(): path.read_text() for path in copy.rglob("*") if path.is_file()}


def test_copy_keeps_code(package: Path, tmp_path: Path) -> None:
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_bytes(b"old")
    copy = copy_code(package, tmp_path / "code")
    assert copy.name == "ppml" and texts(copy) == FILES
    (package / "a.py").write_text("A = 2\n")
    assert texts(copy) == FILES
    other = copy_code(package, tmp_path / "code")
    assert other != copy and texts(other)["a.py"] == "A = 2\n"
    remove_old_snapshots(other)
    assert [folder.name for folder in (tmp_path / "code").iterdir()] == [other.parent.name]


def test_equal_code_is_copied_once(package: Path, tmp_path: Path) -> None:
    copy = copy_code(package, tmp_path / "code")
    before = (copy / "a.py").stat().st_ino
    assert copy_code(copy, tmp_path / "code") == copy_code(package, tmp_path / "code") == copy
    assert (copy / "a.py").stat().st_ino == before


@pytest.mark.parametrize("change", [("a.py", "parts/a.py"), ("a.py", "c.py")])
def test_moved_file_is_other_code(package: Path, tmp_path: Path, change: tuple[str, str]) -> None:
    copy = copy_code(package, tmp_path / "code")
    (package / change[0]).rename(package / change[1])
    assert copy_code(package, tmp_path / "code") != copy


@pytest.mark.parametrize("content", ["", "A = 3\n", None])
def test_damaged_copy_is_replaced(package: Path, tmp_path: Path, content: str | None) -> None:
    copy = copy_code(package, tmp_path / "code")
    (copy / "a.py").unlink()
    if content is not None:
        (copy / "a.py").write_text(content)
    assert copy_code(package, tmp_path / "code") == copy
    assert texts(copy) == FILES
