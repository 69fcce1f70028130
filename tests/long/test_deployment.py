"""SuperLink and SuperNodes as processes on this machine: TLS, keys, the same bits, and nothing left running."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path

import pytest
import torch

from ppml.federation.engines.credentials import make_credentials
from ppml.federation.engines.deployment import DeploymentFailed, run_deployed
from ppml.learning.vectors import digest_of, flat_parameters
from ppml.stages.sites import hold_keys

from ..federation.test_engines import job_of, outcome

MODULE = "ppml.stages.deployed"
SECONDS = 900.0


@pytest.fixture(autouse=True)
def one_thread():
    """Compute as jobs and sites do: another number of threads gives other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def deploy(tmp_path: Path, name: str = "cnn", **others: object) -> dict[str, object]:
    job, result = job_of(name, tmp_path / "job"), tmp_path / "result.json"
    with hold_keys(str(job)):
        run_deployed(tmp_path / "sites", MODULE, job, result, 3, **{"seconds": SECONDS, **others})
    return json.loads(result.read_text())


def running() -> str:
    return subprocess.run(["pgrep", "-f", "flower-super"], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("name", ["cnn", "private", "encrypted"])
def test_a_deployment_comes_to_the_bits_of_the_workflow_and_leaves_nothing_running(name, tmp_path):
    before = running()
    found = deploy(tmp_path, name)
    assert found["model"] == digest_of(flat_parameters(outcome(name).models[0]))
    assert found["events"] == [[event.to_json() for event in own] for own in outcome(name).events]
    assert [row["accuracy"] for row in found["history"]] == [row.accuracy for row in outcome(name).history]
    assert found["notices"] == []
    assert running() == before


def test_certificates_that_have_expired_are_refused(tmp_path):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    before = running()
    with pytest.raises(DeploymentFailed):
        deploy(tmp_path, credentials=make_credentials(tmp_path / "expired", 3, expires=past))
    assert running() == before


def test_a_client_whose_authority_is_another_is_refused(tmp_path):
    mine, theirs = make_credentials(tmp_path / "mine", 3), make_credentials(tmp_path / "theirs", 3)
    mixed = type(mine)(theirs.authority, mine.certificate, mine.key, mine.clients)
    with pytest.raises(DeploymentFailed):
        deploy(tmp_path, credentials=mixed)
