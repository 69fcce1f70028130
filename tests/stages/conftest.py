"""The files of a subset, and jobs of stages on them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppml.config.arm import Arm
from ppml.io.atomic import write_json
from ppml.jobs.job import Job
from ppml.jobs.threads import make_deterministic
from ppml.stages.example_files import write_examples
from tests.conftest import RealData

Files = dict[str, Path]
TRAIN_OUTPUTS = {
    "config": "config.json",
    "model": "model.safetensors",
    "history": "history.csv",
    "events": "events.json",
    "cost": "cost.json",
}
"""Outputs of the stage train, and the names of their files."""


def train_job(
    folder: Path, arm: dict[str, Any], inputs: Files, dataset: str, *, seed: int = 0, code: str = "code"
) -> Job:
    """Return a job of the stage train on one CPU, with outputs in ``folder``."""
    spec = {"arm": Arm.model_validate(arm).technique(), "dataset": dataset, "root_seed": 2024, "device": "cpu"}
    outputs = {name: folder / file for name, file in TRAIN_OUTPUTS.items()}
    return Job(spec, inputs, outputs, seed=seed, digest=code)


@contextmanager
def deterministic() -> Iterator[None]:
    """Set PyTorch as the runner does for a stage, and restore its settings."""
    threads = torch.get_num_threads()
    make_deterministic()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


def run_stage(stage: str, spec: Any, inputs: Mapping[str, Path], outputs: Mapping[str, Path], **others: Any) -> None:
    """Run one job of a stage in this process."""
    run_job(stage, Job(spec, dict(inputs), dict(outputs), **others))


def run_job(stage: str, job: Job) -> None:
    """Run one job of a stage in this process."""
    with deterministic():
        importlib.import_module(f"ppml.stages.{stage}").run(job)


@pytest.fixture(scope="package")
def subset(real_data: RealData, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return the files of a subset of 400 images and two clients, by name."""
    folder = tmp_path_factory.mktemp("subset")
    files = {name: folder / name for name in ("train", "test", "about", "partition")}
    contract = real_data.contract
    write_examples(files["train"], real_data.train.inputs[:400], real_data.train.labels[:400], contract)
    write_examples(files["test"], real_data.test.inputs, real_data.test.labels, contract)
    about = {"n_train": 400, "n_test": 100, "n_test_all": 300, "evaluate_on": "test", "digest": "d" * 16}
    about |= {"dataset": real_data.dataset, "identity": None, "selection": "first", "contract": contract.to_json()}
    write_json(files["about"], about)
    parts = [list(range(100)), list(range(100, 400))]
    labels = [np.bincount(real_data.train.labels[part], minlength=10).tolist() for part in parts]
    write_json(files["partition"], {"clients": parts, "labels": labels})
    return files


@pytest.fixture
def deterministic_torch() -> Iterator[None]:
    """Run the test with the settings of a stage."""
    with deterministic():
        yield
