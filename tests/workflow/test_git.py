"""Failures of git: one line with a remedy, never taken for an empty answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ppml.pipeline import git as repository
from ppml.pipeline.git import GitError, ask_git, changed_files, history, is_shallow
from tests.jobs.processes import alive, soon
from tests.workflow.clone import Clone, error_of, run

pytestmark = pytest.mark.usefixtures("isolated")

MODEL = "artifacts/runs/fl/seed0/model.safetensors"
BETTER = {MODEL: b"better"}


def fake_git(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called git into PATH, before the real one."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def distrusted(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def not_installed(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(clone.folder / "no-programs"))


def no_repository(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    (clone.folder / ".git").rename(clone.folder.parent / "moved.git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(clone.folder.parent))
    # Without a repository, DVC requires this setting.
    (clone.folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")


def hangs(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "TIMEOUT_SECONDS", 0.3)
    fake_git(clone.folder.parent, "sleep 60 & wait", monkeypatch)


def fails(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_git(clone.folder.parent, "echo 'fatal: bad object HEAD' >&2; exit 128", monkeypatch)


FAILURES = {
    distrusted: ("dubious ownership", "git config --global --add safe.directory"),
    not_installed: ("git is not installed, or its folder is not in PATH", "install it"),
    no_repository: ("not a git repository", "git clone"),
    hangs: ("no answer within 0.3 seconds", "it waits for input or a lock"),
    fails: ("bad object HEAD", ""),
}
failures = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)


@failures
def test_publishing_names_failure_of_git(
    published: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: Callable[..., None]
) -> None:
    published.write(BETTER)
    failure(published, monkeypatch)
    published.publish()
    output = capsys.readouterr().out
    why, remedy = FAILURES[failure]
    last = output.splitlines()[-1]
    assert last.startswith("warning: whether the last commit names these files is not known (git status: ")
    assert why in last and remedy in last and "git add data.dvc artifacts.dvc reports" in last
    assert "nothing to commit" not in output


@failures
def test_pull_without_git_loses_nothing(
    published: Clone, other: Clone, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., None]
) -> None:
    """Only git can tell the user's work from an earlier version."""
    other.pull()
    published.write(BETTER)
    published.publish()
    published.commit()
    other.git("pull", "-q")
    before = other.files()
    with monkeypatch.context() as patch:
        failure(other, patch)
        message = error_of(other.pull)
        why, remedy = FAILURES[failure]
        (doubt,) = [
            line for line in message.splitlines() if line.startswith("Whether an earlier commit published them")
        ]
        assert why in doubt and remedy in doubt and "git log: " in doubt
        assert other.files() == before
        # An empty place needs no history.
        (other.folder / MODEL).unlink()
        other.pull()
        assert other.files() == {**before, **BETTER}


def test_folder_of_other_user_is_named(published: Clone) -> None:
    """Git distrusts such a folder: in a container, on a network drive, under sudo."""
    if os.geteuid():
        pytest.skip("only the superuser can give files away")
    published.write(BETTER)
    subprocess.run(["chown", "-R", "12345", published.folder], check=True)
    done = run(published, "-m", "ppml.pipeline.pull")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "safe.directory" in done.stderr, done.stderr
    assert (published.folder / MODEL).read_bytes() == b"better"


def test_shallow_clone_is_named(published: Clone, other: Clone) -> None:
    """The shallow clone has the first version of the files, and only the second commit."""
    other.pull()
    published.write(BETTER)
    published.publish()
    published.commit()
    url, shallow = f"file://{published.folder}", published.folder.parent / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", url, shallow], check=True)
    shutil.copytree(other.folder / "artifacts", shallow / "artifacts")
    clone = Clone(shallow)
    assert is_shallow(shallow) and not is_shallow(other.folder)
    before = clone.files()
    message = error_of(clone.pull)
    assert (
        "Whether an earlier commit published them is not known: the clone is shallow: git fetch --unshallow" in message
    )
    assert clone.files() == before
    clone.git("fetch", "-q", "--unshallow")
    clone.pull()
    assert clone.files()[MODEL] == b"better"


@pytest.mark.parametrize("kind", ["worktree", "detached", "submodule"])
def test_other_kinds_of_clones_work(published: Clone, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = published.folder.parent / "other"
    if kind == "worktree":
        published.git("worktree", "add", "-q", str(folder), "-b", "other")
    elif kind == "detached":
        published.clone().git("checkout", "-q", "--detach")
    else:
        super_project = Clone(published.folder.parent / "super")
        super_project.folder.mkdir()
        super_project.git("init", "-q")
        super_project.git(
            *("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(published.folder), "other")
        )
        folder = super_project.folder / "other"
        (super_project.folder / "store").symlink_to(published.folder.parent / "store")
    clone = Clone(folder)
    clone.pull()
    assert MODEL in clone.files() and "published files are in place" in capsys.readouterr().out
    assert changed_files(folder, "data.dvc") == []
    with (folder / "data.dvc").open("a") as file:
        file.write("# changed\n")
    assert changed_files(folder, "data.dvc") == [" M data.dvc"]
    assert "md5:" in history(folder, "artifacts.dvc") and not is_shallow(folder)


def test_repository_without_commit_works(tmp_path: Path) -> None:
    clone = Clone.first(tmp_path / "new")
    shutil.rmtree(clone.folder / ".git")
    clone.git("init", "-q")
    assert history(clone.folder, "data.dvc") == "" and not is_shallow(clone.folder)
    assert changed_files(clone.folder, ".gitignore") == ["?? .gitignore"]


def test_programs_of_git_settings_are_not_started(published: Clone) -> None:
    """Hooks, a monitor of files, a pager, a viewer of signatures and an external diff of the repository's settings."""
    waits = published.folder / "waits"
    waits.write_text("#!/bin/sh\nsleep 60\n")
    waits.chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "diff.external", "gpg.program", "core.sshCommand"):
        published.git("config", key, str(waits))
    published.git("config", "log.showSignature", "true")
    shutil.copy(waits, published.folder / ".git/hooks/post-index-change")
    os.utime(published.folder / "data.dvc")
    started = time.monotonic()
    assert "md5:" in history(published.folder, "data.dvc") and changed_files(published.folder, "data.dvc") == []
    assert time.monotonic() - started < 30


def test_child_of_hanging_git_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "TIMEOUT_SECONDS", 0.5)
    fake_git(tmp_path, f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60'", monkeypatch)
    with pytest.raises(GitError, match=r"^git log: no answer within 0\.5 seconds"):
        ask_git(tmp_path, "log")
    pid = int((tmp_path / "pid").read_text())
    assert soon(lambda: not alive(pid), 5), f"process {pid} still runs"
