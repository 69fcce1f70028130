"""Folders of runs, as the stages of the workflow write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ppml.config.arm import Arm
from ppml.stages.about import read_contract
from tests.conftest import RealData
from tests.stages.conftest import Files, run_job, run_stage, subset, train_job

__all__ = ["subset"]

TRAINING = {"epochs": 1, "batch_size": 100, "learning_rate": 0.5}
DP = {
    "model": "logistic",
    "privacy": {"kind": "example", "noise_multiplier": 1.5, "accountant": "rdp", "max_grad_norm": 0.1},
    "training": TRAINING,
}
SCATTERING = {"kind": "scattering", "components": 30, "strokes": 40, "views": 2}
ARMS: dict[str, dict[str, Any]] = {
    "dp": DP,
    "scattering": {"model": "linear", "transforms": [SCATTERING], "training": TRAINING},
    "independent": {
        "model": "logistic",
        "topology": {"kind": "independent", "partition": "p"},
        "training": TRAINING,
    },
}


class Run(NamedTuple):
    """The folder of a run, and the files of its inputs."""

    folder: Path
    inputs: Files


@pytest.fixture(scope="package")
def runs(subset: Files, real_data: RealData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Return a trained run of each arm of ``ARMS``."""
    return {
        name: Run(*_train(tmp_path_factory.mktemp(name), arm, subset, real_data.dataset)) for name, arm in ARMS.items()
    }


def _train(folder: Path, given: dict[str, Any], subset: Files, dataset: str) -> tuple[Path, Files]:
    arm = Arm.model_validate(given)
    inputs = {name: subset[name] for name in ("train", "test", "about")}
    if arm.transforms:
        outputs = {name: folder / f"transformed-{name}" for name in inputs}
        contract = arm.transforms[0].output(read_contract(inputs["about"])).to_json()
        run_stage("transform", {"transform": SCATTERING, "root_seed": 2024, "contract": contract}, inputs, outputs)
        inputs = outputs
    files = dict(inputs)
    if arm.partition:
        files["partition"] = subset["partition"]
    if arm.is_private:
        files["noise"] = folder / "noise.json"
        run_stage("calibrate", {"arm": arm.technique()}, {"about": subset["about"]}, {"noise": files["noise"]})
    job = train_job(folder, given, files, dataset)
    run_job("train", job)
    spec = {"privacy": arm.technique()["privacy"]}
    run_stage("account", spec, {"events": job.outputs["events"]}, {"privacy": folder / "privacy.json"})
    return folder, inputs
