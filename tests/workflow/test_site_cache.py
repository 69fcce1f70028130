"""DVC's file states are in the clone, closed to other users of the machine: DVC unpickles them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.dirs import site_cache_dir

from ppml.pipeline.dvc_remote import SITE_CACHE, open_repo, private_folder
from tests.workflow.clone import Clone
from tests.workflow.project import ROOT

pytestmark = pytest.mark.usefixtures("isolated")

USED = "from dvc.repo import Repo; repo = Repo('.'); print(repo.site_cache_dir); repo.state.hashes.set('a', object); "


def used_by_dvc(clone: Clone) -> Path:
    """Return the folder of DVC's command in the top folder of a clone, without settings of this user."""
    done = subprocess.run(
        [sys.executable, "-c", USED], cwd=clone.folder, capture_output=True, text=True, check=True, umask=0o022
    )
    return Path(done.stdout.strip())


def open_to_others(folder: Path, root: Path) -> list[str]:
    """Return the folders between ``root`` and ``folder``, and below, with write access for other users."""
    parts = [folder, *folder.parents, *folder.rglob("*")]
    return [
        str(part) for part in parts if part.is_relative_to(root) and part.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ]


def test_command_of_dvc_uses_folder_in_clone(published: Clone, other: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    folder = (other.folder / used_by_dvc(other)).resolve()
    assert folder.is_relative_to(other.folder / SITE_CACHE) and (folder / "hashes/local/cache.db").is_file()
    assert open_to_others(folder, other.folder) == []
    assert other.git("status", "--porcelain") == ""
    # Planted fault: without the folder in git, DVC creates it.
    third = published.clone("third")
    third.git("rm", "-rq", SITE_CACHE)
    assert str(third.folder / SITE_CACHE / "repo") in open_to_others(third.folder / used_by_dvc(third), third.folder)
    # DVC's default is a folder of all users.
    assert Path(site_cache_dir(None)).is_absolute()


@pytest.mark.parametrize("setting", ["", "/var/tmp/dvc-of-all"])
def test_open_repo_uses_folder_in_clone(other: Clone, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", setting)
    monkeypatch.chdir(other.folder.parent)
    umask = os.umask(0)
    try:
        with open_repo(other.folder) as repo:
            folder = Path(repo.site_cache_dir)
    finally:
        os.umask(umask)
    assert folder.is_relative_to(other.folder / SITE_CACHE)
    top = other.folder / SITE_CACHE
    assert [stat.S_IMODE(part.stat().st_mode) for part in (top, top / "repo")] == [0o700, 0o700]
    assert not Path("/var/tmp/dvc-of-all").exists()


@pytest.mark.parametrize("opened", [SITE_CACHE, f"{SITE_CACHE}/repo"])
def test_open_folder_is_closed_and_emptied(tmp_path: Path, opened: str) -> None:
    planted = tmp_path / SITE_CACHE / "repo/0123456789abcdef/links/cache.db"
    planted.parent.mkdir(parents=True)
    planted.write_bytes(b"a pickle that runs code")
    (tmp_path / SITE_CACHE / "repo/README").write_text("in git")
    (tmp_path / opened).chmod(0o777)
    assert private_folder(tmp_path, SITE_CACHE) == tmp_path / SITE_CACHE
    assert open_to_others(tmp_path / SITE_CACHE / "repo", tmp_path) == []
    assert [path.name for path in (tmp_path / SITE_CACHE / "repo").iterdir()] == ["README"]
    # Files of a closed folder are kept.
    planted.parent.mkdir(parents=True)
    planted.write_bytes(b"hashes")
    assert private_folder(tmp_path, SITE_CACHE) and planted.read_bytes() == b"hashes"


@pytest.mark.parametrize("part", [SITE_CACHE, f"{SITE_CACHE}/repo"])
@pytest.mark.parametrize("kind", ["link", "another user's", "file"])
def test_temporary_folder_replaces_foreign_folder(other: Clone, part: str, kind: str) -> None:
    place = other.folder / part
    shutil.rmtree(place)
    if kind == "link":
        (other.folder / "elsewhere").mkdir()
        place.symlink_to(other.folder / "elsewhere")
    elif kind == "file":
        place.write_text("in the way")
    elif os.geteuid():
        pytest.skip("only the superuser can give files away")
    else:
        place.mkdir()
        os.chown(place, 12345, 12345)
    with open_repo(other.folder) as repo:
        used = Path(repo.site_cache_dir)
        assert not used.is_relative_to(other.folder)
        top = used.parent.parent
        assert stat.S_IMODE(top.stat().st_mode) == 0o700 and top.stat().st_uid == os.geteuid()
    assert not top.exists()
    other.pull()


def test_settings_name_folder_in_git() -> None:
    assert f"site_cache_dir = {SITE_CACHE}\n" in (ROOT / ".dvc/config").read_text()
    assert (ROOT / SITE_CACHE / "repo/README").is_file()
