"""Prediction on encrypted images in the workflow: for the configured arms, and again only after a change."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from tests.workflow.project import Project

CONFIG = "config/encrypted.yaml"
CONTENT = {
    "seeds": [0, 1],
    "folders": {"data": "data", "artifacts": "build/a", "reports": "build/r", "logs": "build/l"},
    "data": {"dataset": "digits", "train": 300, "test": 100},
    "arms": {
        "plain": {"training": {"epochs": 1}},
        "encrypted": {
            "model": "logistic",
            "training": {"epochs": 2, "learning_rate": 0.01},
            "inference": {"kind": "ckks", "images": 50, "single_images": 2},
        },
    },
    "experiments": {
        "both": {"title": "Both", "arms": ["plain", "encrypted"], "tables": ["inference"]},
    },
}
INFERRED = {f"infer encrypted/{seed}" for seed in (0, 1)}
TRAINED = {f"{rule} encrypted/{seed}" for rule in ("train", "predict", "account") for seed in (0, 1)}
REPORT = {"collect", "table_inference both"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after a run."""
    project = Project(tmp_path_factory.mktemp("project"), config=CONFIG)
    write(project, CONTENT)
    status, output = project.run()
    assert status == 0, output
    return project


def write(project: Project, content: object) -> None:
    (project.folder / CONFIG).write_text(yaml.safe_dump(content))


def test_encrypted_predictions_are_collected_and_tabulated(project: Project) -> None:
    reports = project.folder / "build/r"
    rows = pd.read_csv(reports / "inferences.csv")
    assert list(rows["arm"]) == ["encrypted", "encrypted"] and list(rows["seed"]) == [0, 1]
    assert (rows["images"] == 50).all() and (rows["right"] == rows["plain_right"]).all()
    assert (rows["right"] > 25).all()
    assert (rows["error"] < rows["bound"]).all()
    table = (reports / "tables/both-inference.md").read_text()
    assert "Without circuit privacy" in table and "| encrypted | 2 | 50 |" in table


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (("inference", "single_images"), 3, INFERRED | REPORT),
        (("training", "epochs"), 3, TRAINED | INFERRED | REPORT),
    ],
)
def test_change_repeats_only_dependent_predictions(
    project: Project, key: tuple[str, str], value: object, expected: set[str]
) -> None:
    changed = yaml.safe_load(yaml.safe_dump(CONTENT))
    changed["arms"]["encrypted"][key[0]][key[1]] = value
    write(project, changed)
    try:
        assert project.planned() == expected
    finally:
        write(project, CONTENT)


def test_removed_prediction_repeats_no_training(project: Project) -> None:
    changed = yaml.safe_load(yaml.safe_dump(CONTENT))
    del changed["arms"]["encrypted"]["inference"], changed["experiments"]
    write(project, changed)
    try:
        assert project.planned() == {"collect"}
    finally:
        write(project, CONTENT)
