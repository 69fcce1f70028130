"""A transform runs once for all arms and seeds, and again only after a change of its parameters or code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.workflow.every import CONFIG
from tests.workflow.project import Project, jobs

TRANSFORM = "transform digits/scattering-30-0.001-40-2-1-10.0-0.1-0.1-1.5-2024"
REPORT = {"collect", "table_audit every", "table_inference every", "table_threats every", "figure_epsilon every"}
RUN = ("train", "predict", "account")
REPEATED = jobs(RUN, ["private", "open"], "0") | REPORT | {"audit private/0"}
"""The jobs after a change of the transform or of the training."""


@pytest.fixture
def project(plain: Project, tmp_path: Path) -> Project:
    return plain.copy(tmp_path / "project")


def test_change_of_training_repeats_no_transform(project: Project) -> None:
    path = project.folder / CONFIG
    content = yaml.safe_load(path.read_text())
    content["arms"]["private"]["training"]["learning_rate"] = 0.5
    path.write_text(yaml.safe_dump({**content, "seeds": [0, 1]}))
    added = {"calibrate private/1", "partition digits/iid-2/1", "infer encrypted/1"}
    assert project.planned() == REPEATED | added | jobs(RUN, ["encrypted", "private", "open"], "1")


def test_change_of_parameter_repeats_transform(project: Project) -> None:
    project.replace(CONFIG, "copies: 2", "copies: 3")
    # The calibration depends only on the number of steps.
    assert project.planned() == {TRANSFORM.replace("-40-2-", "-40-3-")} | REPEATED


def test_change_of_code_repeats_only_dependent_arms(project: Project) -> None:
    project.append("src/ppml/data/transforms/strokes.py", "\nPLANTED = 1\n")
    assert project.planned() == {TRANSFORM} | REPEATED
