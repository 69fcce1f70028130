"""Projects that have run."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.project import DATASET, PUBLIC, Project


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has run on two cores; whoever changes something in it puts it back."""

    def make(folder: Path) -> None:
        status, output = Project(folder).run(cores=2)
        assert status == 0, output

    # A worker's own: two that change it at a time would meet.
    return Project(made_once(tmp_path_factory, "first", make)).copy(tmp_path_factory.mktemp("first") / "project")


@pytest.fixture(scope="session")
def author(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has run on one core, committed its reports and published its files; nobody changes it."""
    config = "config/small.yaml"

    def make(folder: Path) -> None:
        (folder / "project").mkdir()
        project = Project(folder / "project", config=config)
        (project.folder / config).write_text(PUBLIC.format(dataset=DATASET))
        status, output = project.run(cores=1)
        assert status == 0, output
        project.git("init", "-q")
        project.publish()

    return Project(made_once(tmp_path_factory, "author", make) / "project", config=config)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that ``make`` has filled, once for all workers of a session."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = shared / f"made-{name}", shared / f"made-{name}.done"
    with (shared / f"made-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            # What a worker before has left where it failed.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
