"""A project that has run."""

from __future__ import annotations

import pytest

from tests.workflow.project import DATASET, PUBLIC, Project


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has run on two cores; whoever changes something in it puts it back."""
    project = Project(tmp_path_factory.mktemp("first"))
    status, output = project.run(cores=2)
    assert status == 0, output
    return project


@pytest.fixture(scope="session")
def author(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has run on one core, committed its reports and published its files; nobody changes it."""
    folder = tmp_path_factory.mktemp("author") / "project"
    folder.mkdir()
    project = Project(folder, config="config/small.yaml")
    (folder / project.config).write_text(PUBLIC.format(dataset=DATASET))
    status, output = project.run(cores=1)
    assert status == 0, output
    project.git("init", "-q")
    project.publish()
    return project
