"""Features are computed once for all arms and seeds that are trained on them, and again only when they change."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.workflow.project import Project

CONFIG = "config/features.yaml"
CONTENT = {
    "seeds": [0, 1],
    "folders": {"data": "data", "artifacts": "build/a", "reports": "build/r", "logs": "build/l"},
    "data": {"dataset": "digits", "train": 60, "test": 40},
    "arms": {
        "images": {"training": {"epochs": 1}},
        "private": {
            "features": {"kind": "scattering", "components": 30, "strokes": 40, "copies": 2},
            "model": "linear",
            "privacy": {"kind": "example", "epsilon": 8.0},
            "training": {"epochs": 3, "batch_size": "all", "learning_rate": 20.0},
        },
        "plain": {"extends": "private", "privacy": {"kind": "none"}},
    },
}
FEATURES = "features digits/scattering-30-0.001-40-2-1-10.0-0.1-0.1-1.5-2024"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has run."""
    project = Project(tmp_path_factory.mktemp("project"), config=CONFIG)
    write(project, CONTENT)
    assert {job for job in project.planned() if job.startswith("features")} == {FEATURES}
    status, output = project.run()
    assert status == 0, output
    return project


def write(project: Project, content: object) -> None:
    (project.folder / CONFIG).write_text(yaml.safe_dump(content))


def trained(*arms: str) -> set[str]:
    return {f"{rule} {arm}/{seed}" for rule in ("train", "predict", "account") for arm in arms for seed in (0, 1)}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (("training", "learning_rate"), 10.0, set()),
        # What is private is calibrated to the number of steps alone.
        (("features", "copies"), 3, {FEATURES.replace("-40-2-", "-40-3-")}),
    ],
)
def test_a_change_computes_features_again_only_if_it_is_one_of_theirs(
    project: Project, tmp_path: Path, key: tuple[str, str], value: object, expected: set[str]
) -> None:
    other = project.copy(tmp_path / "other")
    section, name = key
    private = CONTENT["arms"]["private"]
    changed = {**private, section: {**private[section], name: value}}
    write(other, {**CONTENT, "arms": {**CONTENT["arms"], "private": changed}})
    assert other.planned() == expected | trained("private", "plain") | {"collect"}


def test_a_change_in_their_code_computes_them_again_and_leaves_arms_on_images_alone(
    project: Project, tmp_path: Path
) -> None:
    other = project.copy(tmp_path / "other")
    with (other.folder / "src/ppml/data/transforms/strokes.py").open("a") as file:
        file.write("\nPLANTED = 1\n")
    assert other.planned() == {FEATURES} | trained("private", "plain") | {"collect"}
