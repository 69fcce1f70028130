"""Hostile lists and remotes: a pull writes only published files, in their own places."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from ppml.pipeline.dvc_remote import Objects, read_list, tracked_lists
from ppml.pipeline.published_files import is_publishable
from ppml.pipeline.safe_paths import Places
from tests.workflow.clone import FILES, Clone, error_of, stored

pytestmark = pytest.mark.usefixtures("isolated")

MINE = {
    "precious.txt": b"precious",
    ".venv/lib/site.py": b"precious",
    "data/own/notes.txt": b"precious",
    "src/code.py": b"precious",
}
"""Files of the user that a pull must not change."""
HOSTILE = b"import os; os.abort()\n"
SAFE = "artifacts/runs/fl/seed0/model.safetensors"


def forge(clone: Clone, store: Path, folder: str, names: list[str]) -> None:
    """Write a list of ``names`` for a folder, with hostile bytes in the remote for each."""
    digest = hashlib.md5(HOSTILE).hexdigest()
    content = json.dumps([{"md5": digest, "relpath": name} for name in names]).encode()
    listed = f"{hashlib.md5(content).hexdigest()}.dir"
    for name, data in ((digest, HOSTILE), (listed, content)):
        place = store / "files/md5" / name[:2] / name[2:]
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    out = {"md5": listed, "size": 10_000, "nfiles": len(names), "hash": "md5", "path": folder}
    (clone.folder / f"{folder}.dvc").write_text(yaml.safe_dump({"outs": [out]}))


def everything(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, except files of DVC, git and Snakemake."""
    own = (".dvc/cache/", ".dvc/tmp/", ".dvc-site/", ".git/", ".snakemake/")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(own) and path.exists()}


NAMES = [
    *("../precious.txt", "../../precious.txt", "/etc/cron.d/x", "runs/../../.venv/lib/site.py", "./own/notes.txt"),
    *("own/notes.txt", "a.gz", ".git/hooks/post-checkout", "../.git/config", "../src/code.py", "../Snakefile"),
    *("runs/fl/seed0/model.safetensors/", "runs//fl/seed0/model.safetensors", "runs/fl/seed0/../../../x"),
    *("runs/../seed0/model.safetensors", "runs/fl/seed0", "runs", "", ".", "runs/fl/seed0/sitecustomize.py"),
    *("RUNS/fl/seed0/model.safetensors", "runs/fl/seed0/MODEL.safetensors", "runs/fl/seed٣/model.safetensors"),
    *("runs/fl/seed0/model.safetensors\0", "runs/f\nl/seed0/model.safetensors", "runs\\fl\\seed0\\cost.json"),
    *("runs/.fl/seed0/model.safetensors", "x" * 100_000, "runs/" + "a/" * 400 + "b", "\ud800"),
]
"""Names in a list of ``artifacts/`` without a planned place."""


@pytest.mark.parametrize("name", NAMES)
def test_name_of_no_result_has_no_place(tmp_path: Path, name: str) -> None:
    places = Places(tmp_path, is_publishable)

    def check() -> list[Path]:
        files = read_list("artifacts", json.dumps([{"md5": "0" * 32, "relpath": name}]).encode())
        return [places.check(file.path) for file in files]

    message = error_of(check)
    assert "\n" not in message and len(message) < 500
    assert places.check(SAFE) == tmp_path / SAFE


def test_pull_of_hostile_list_writes_nothing(other: Clone, store: Path) -> None:
    other.write(MINE)
    for name in NAMES[:12]:
        forge(other, store, "artifacts", ["runs/fl/seed1/model.safetensors", name])
        before = everything(other.folder)
        message = error_of(other.pull)
        assert message.startswith("artifacts.dvc: ") and "\n" not in message
        assert everything(other.folder) == before
    # A list of planned places is valid.
    forge(other, store, "artifacts", ["runs/fl/seed1/model.safetensors"])
    other.pull()
    assert (other.folder / "artifacts/runs/fl/seed1/model.safetensors").read_bytes() == HOSTILE
    assert everything(other.folder).items() >= MINE.items()


def test_places_are_the_check(other: Clone, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: without :class:`Places`, the pull writes the forged file."""
    forge(other, store, "artifacts", ["own.py"])
    monkeypatch.setattr(Places, "check", lambda self, name: other.folder / name)
    other.pull()
    assert (other.folder / "artifacts/own.py").read_bytes() == HOSTILE


@pytest.mark.parametrize(
    "names", [["raw/mnist/a.gz"] * 2, ["raw/mnist/a.gz", "raw/mnist/A.gz"], ["raw/é.gz", "raw/é.gz"]]
)
def test_list_names_each_place_once(names: list[str]) -> None:
    content = json.dumps([{"md5": "0" * 32, "relpath": name} for name in names]).encode()
    assert "names one place twice" in error_of(lambda: read_list("data", content))
    read_list("data", json.dumps([{"md5": "0" * 32, "relpath": names[0]}]).encode())


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"1", b"[1]", b"[{}]", b"[" * 100_000, b"\xff", b'[{"md5": null, "relpath": "a"}]'),
        *(
            b'[{"md5": "%s", "relpath": "a"}]' % name
            for name in (b"../../a", b"A" * 32, b"0" * 31, b"0" * 32 + b".dir")
        ),
        *(b'[{"md5": "%s", "relpath": %s}]' % (b"0" * 32, name) for name in (b"1", b"null", b'["a"]', b'"../a"')),
    ],
)
def test_invalid_list_is_one_line(content: bytes) -> None:
    message = error_of(lambda: read_list("data", content))
    assert message.startswith("data.dvc: the list of its files is damaged: ") and "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "change",
    [
        *({"md5": "../../precious.txt"}, {"md5": "0" * 32}, {"md5": None}, {"path": ".venv"}, {"path": "../data"}),
    ],
)
def test_invalid_entry_of_dvc_file_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    out = {"md5": "0" * 32 + ".dir", "size": 10, "nfiles": 1, "hash": "md5", "path": "data"}
    (tmp_path / "data.dvc").write_text(yaml.safe_dump({"outs": [out]}))
    assert tracked_lists(tmp_path) == {"data": out["md5"]}
    (tmp_path / "data.dvc").write_text(yaml.safe_dump({"outs": [{**out, **change}]}))
    assert error_of(lambda: tracked_lists(tmp_path)).startswith("data.dvc cannot be read; ")


@pytest.mark.parametrize(
    "text", ["", "outs: []", "outs: 1", "[" * 1500, "a: &a [*a]", "\x00", "outs: [{}, {}]", "\ud800"]
)
def test_invalid_dvc_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.dvc").write_bytes(text.encode("utf-8", "surrogatepass"))
    message = error_of(lambda: tracked_lists(tmp_path))
    assert message.startswith("data.dvc cannot be read; ") and "\n" not in message


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["artifacts", "artifacts/runs", "artifacts/runs/fl", "artifacts/runs/fl/seed0"])
def test_pull_writes_through_no_link(other: Clone, tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (other.folder / link).parent.mkdir(parents=True, exist_ok=True)
    (other.folder / link).symlink_to(elsewhere)
    message = error_of(other.pull)
    assert f"{other.folder / link} is a link" in message
    assert list(elsewhere.iterdir()) == []
    assert not (other.folder / "data").exists()


@pytest.mark.parametrize("link", [".dvc/cache", ".dvc/cache/files", ".dvc/cache/files/md5/{0}"])
def test_cache_is_written_through_no_link(other: Clone, tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = other.folder / link.format(hashlib.md5(b"model 7").hexdigest()[:2])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(elsewhere)
    assert f"{place} is a link" in error_of(other.pull)
    assert [path for path in elsewhere.rglob("*") if path.is_file()] == []


def test_link_in_cache_is_replaced(other: Clone, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"model 7")
    place = stored(other.folder / ".dvc/cache", b"model 7")
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    other.pull()
    assert other.files() == FILES
    assert not place.is_symlink() and outside.read_bytes() == b"model 7"
    assert outside.stat().st_mode & 0o200


def test_object_changed_before_copy_is_not_placed(other: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    other.pull()
    (other.folder / SAFE).unlink()
    stored(other.folder / ".dvc/cache", b"model 0").chmod(0o644)
    has, checks = Objects.has, []

    def has_and_changes(self: Objects, name: str) -> bool:
        found = has(self, name)
        checks.append(name)
        # The second check is the last one before the copy.
        if checks.count(hashlib.md5(b"model 0").hexdigest()) == 2:
            stored(other.folder / ".dvc/cache", b"model 0").write_bytes(HOSTILE)
        return found

    monkeypatch.setattr(Objects, "has", has_and_changes)
    assert f"{SAFE} was damaged in .dvc/cache" in error_of(other.pull)
    assert not (other.folder / SAFE).exists()


def test_published_paths_have_places() -> None:
    assert all(map(is_publishable, FILES))
    seeds = [f"artifacts/runs/fl/seed{seed}/cost.json" for seed in (-3, 10**40)]
    assert all(map(is_publishable, seeds))


def test_hostile_list_of_other_commit_replaces_nothing(other: Clone, store: Path) -> None:
    other.pull()
    text = (other.folder / "artifacts.dvc").read_text()
    forge(other, store, "artifacts", ["../precious.txt"])
    other.commit()
    (other.folder / "artifacts.dvc").write_text(text)
    other.write({SAFE: b"own"})
    assert f"  {SAFE}\n" in error_of(other.pull)
    assert other.files()[SAFE] == b"own"
