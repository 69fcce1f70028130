"""A transform runs once for all arms and seeds, and again only after a change of its parameters or code."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.project import Project

CONFIG = "config/transforms.yaml"
CONTENT: dict[str, Any] = {
    "seeds": [0, 1],
    "folders": {"data": "data", "artifacts": "build/a", "reports": "build/r", "logs": "build/l"},
    "data": {"dataset": "digits", "train": 60, "test": 40},
    "arms": {
        "images": {"training": {"epochs": 1}},
        "private": {
            "transforms": [{"kind": "scattering", "components": 30, "strokes": 40, "copies": 2}],
            "model": "linear",
            "privacy": {"kind": "example", "epsilon": 8.0},
            "training": {"epochs": 3, "batch_size": "all", "learning_rate": 20.0},
        },
        "plain": {"extends": "private", "privacy": {"kind": "none"}},
    },
}
TRANSFORM = "transform digits/scattering-30-0.001-40-2-1-10.0-0.1-0.1-1.5-2024"
TRAININGS = {
    f"{rule} {arm}/{seed}"
    for rule in ("train", "predict", "account")
    for arm in ("private", "plain")
    for seed in (0, 1)
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after a run."""
    project = Project(tmp_path_factory.mktemp("project"), config=CONFIG)
    write(project, CONTENT)
    assert {job for job in project.planned() if job.startswith("transform")} == {TRANSFORM}
    status, output = project.run()
    assert status == 0, output
    return project


def write(project: Project, content: object) -> None:
    (project.folder / CONFIG).write_text(yaml.safe_dump(content))


def test_change_of_training_repeats_no_transform(project: Project, tmp_path: Path) -> None:
    other = project.copy(tmp_path / "other")
    content = copy.deepcopy(CONTENT)
    content["arms"]["private"]["training"]["learning_rate"] = 10.0
    write(other, content)
    assert other.planned() == TRAININGS | {"collect"}


def test_change_of_parameter_repeats_transform(project: Project, tmp_path: Path) -> None:
    other = project.copy(tmp_path / "other")
    content = copy.deepcopy(CONTENT)
    content["arms"]["private"]["transforms"][0]["copies"] = 3
    write(other, content)
    # The calibration depends only on the number of steps.
    assert other.planned() == {TRANSFORM.replace("-40-2-", "-40-3-")} | TRAININGS | {"collect"}


def test_change_of_code_repeats_only_dependent_arms(project: Project, tmp_path: Path) -> None:
    other = project.copy(tmp_path / "other")
    with (other.folder / "src/ppml/data/transforms/strokes.py").open("a") as file:
        file.write("\nPLANTED = 1\n")
    assert other.planned() == {TRANSFORM} | TRAININGS | {"collect"}
