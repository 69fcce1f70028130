"""A client whose upload crashes SEAL's reader: in process, in a deployment and on Ray the others continue."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from ppml.aggregation import lattice
from ppml.federation.engines.deployment import run_deployed
from ppml.federation.engines.namespaces import namespace_command
from ppml.learning.parameters import digest_of, flatten
from ppml.learning.result import TrainingResult
from ppml.stages.federation_job import start_key_service

from ..federation.test_engines import arm_of, job_of, outcome

ROOT = Path(__file__).parents[2]
ROUNDS = 3
RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """Let other processes import the tests."""
    others = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), others])))


@cache
def expected() -> TrainingResult:
    """Return the result of the in-process training without client 1."""
    from . import hostile

    try:
        return outcome.__wrapped__("encrypted")
    finally:
        lattice.PublicKeyClients.protect = hostile._protect


def check(found: dict) -> None:
    assert [row["clients"] for row in found["history"]] == [2] * ROUNDS
    assert found["model"] == digest_of(flatten(expected().models[0]))
    named = [line for line in found["notices"] if line.endswith("; its reply is ignored")]
    assert [line.split(": ")[:2] for line in named] == [[f"round {number}", "client 1"] for number in (1, 2, 3)]


def test_in_process_rounds_continue_without_the_client():
    assert [row.clients for row in expected().history] == [2] * ROUNDS
    assert arm_of("encrypted").topology.rounds == ROUNDS
    assert not torch.equal(flat(expected()), flat(outcome("encrypted")))


def flat(trained: TrainingResult) -> torch.Tensor:
    return torch.as_tensor(flatten(trained.models[0]))


def test_deployment_continues_without_the_client(tmp_path):
    job, result = job_of("encrypted", tmp_path / "job"), tmp_path / "result.json"
    with start_key_service(str(job)):
        run_deployed(tmp_path / "sites", "tests.long.hostile", job, result, 3, seconds=900.0)
    check(json.loads(result.read_text()))


@pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install flwr[simulation]")
def test_ray_continues_without_the_client(tmp_path):
    job, result = job_of("encrypted", tmp_path / "job"), tmp_path / "result.json"
    command = [*namespace_command(), sys.executable, "-m", "tests.long.hostile", str(job), str(result)]
    with start_key_service(str(job)):
        subprocess.run(command, check=True, cwd=ROOT, env=dict(os.environ))
    check(json.loads(result.read_text()))
