"""Fixtures: projects and a small workflow after a run."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ppml.pipeline.published_configs import published_configurations
from tests.workflow.clone import Clone, isolate, set_store
from tests.workflow.code_tree import Tree
from tests.workflow.every import CONFIG, PLAIN, run_in, source
from tests.workflow.project import DATASET, PUBLIC, Project
from tests.workflow.small import Small


@pytest.fixture(scope="session")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after a run on two cores, a commit and `make publish`; no test changes it."""
    config = "config/default.yaml"

    def make(folder: Path) -> None:
        (folder / "project").mkdir()
        project = Project(folder / "project", config=config)
        # Every configuration with artifacts in DVC's folders is published.
        for name in published_configurations(project.folder):
            (project.folder / name).unlink()
        (project.folder / config).write_text(PUBLIC.format(dataset=DATASET))
        set_store(project.folder)
        # Other workers wait for it.
        project.complete(cores=2)
        project.git("init", "-q")
        project.publish()

    return Project(make_once(tmp_path_factory, "publisher", make) / "project", config=config)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with every rule after a run, in a folder with a plain name; no test changes it."""

    def project(folder: Path) -> Project:
        return Project(folder, mirror=source(), config=CONFIG)

    return project(make_once(tmp_path_factory, "plain", lambda folder: run_in(project(folder), PLAIN)))


@pytest.fixture(scope="session")
def finished_small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return the small workflow after a run; no test changes it."""
    return Small(make_once(tmp_path_factory, "small", Small.create))


@pytest.fixture
def small(finished_small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Return a copy of the small workflow after a run, in the working directory."""
    small = finished_small.copy(tmp_path / "small")
    monkeypatch.chdir(small.folder)
    return small


@pytest.fixture
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the test from the settings, keys and caches of the user, in the folder of the test."""
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def first(tmp_path: Path) -> Clone:
    """Return a clone that has published nothing."""
    return Clone.first(tmp_path / "first")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the folder of the remote."""
    return tmp_path / "store"


@pytest.fixture(scope="session")
def published_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a clone that has published its files, and the remote."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        isolate(folder, patch)
        clone = Clone.first(folder / "first")
        clone.publish()
        clone.commit()
        patch.chdir(folder)
    return folder


@pytest.fixture
def published(published_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Clone:
    """Return a clone that has published its files."""
    for name in ("first", "store"):
        shutil.copytree(published_once / name, tmp_path / name, symlinks=True, copy_function=shutil.copy2)
    capsys.readouterr()
    return Clone(tmp_path / "first")


@pytest.fixture
def other(published: Clone) -> Clone:
    """Return a clone of the published clone, before its first pull."""
    return published.clone()


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that ``make`` fills once for all workers of a session."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = shared / f"made-{name}", shared / f"made-{name}.done"
    with (shared / f"made-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            # Another worker may have failed.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a small package whose code digests a test changes."""
    return Tree(tmp_path)
