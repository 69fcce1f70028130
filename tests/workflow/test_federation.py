"""The claims, costs and accuracies of every kind of federation in the workflow."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.workflow.project import DATASET, Project

CONFIG = "config/federation.yaml"
HALF_NOISE = """
def _half(self, rng, sample=DistributedGaussian.sample):
    noise = sample(self, rng)
    return noise._replace(values=noise.values // 2)


DistributedGaussian.sample = _half
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("federation"), config=CONFIG)
    project.complete()
    return project


@pytest.fixture(scope="module")
def records(federation: Project) -> pd.DataFrame:
    return pd.read_csv(federation.output_folder("reports") / "records.csv").set_index("arm")


def test_every_federated_arm_learns(records):
    # Random predictions have accuracy 0.1; scikit-learn's digits have fewer examples than MNIST.
    assert (records["accuracy_all"] > (0.25 if DATASET == "mnist" else 0.15)).all(), records["accuracy_all"]
    assert records.loc["fl", "accuracy_all"] > records.loc["alone", "accuracy_all"]


def test_claims_name_unit_neighbours_and_noise(records):
    claims = records.loc[["fl_budget", "fl_shares", "fl_clients"], ["privacy_unit", "noise", "neighbouring"]]
    assert claims.to_numpy().tolist() == [
        ["example", "local", "zero_out_one"],
        ["example", "distributed", "zero_out_one"],
        ["client", "central", "zero_out_one"],
    ]
    assert 7.9 < records.loc["fl_shares", "epsilon"] <= 8.0
    assert records.loc["fl_shares", "epsilon_if_opened"] > 1.5 * records.loc["fl_shares", "epsilon"]


def test_no_client_exceeds_its_budget(federation, records):
    folder = federation.output_folder("artifacts") / "runs" / "fl_budget" / "seed0"
    spent = json.loads((folder / "privacy.json").read_text())["epsilons"]
    assert max(spent) <= 6.0 and records.loc["fl_budget", "budget"] == 6.0
    executed = json.loads((folder / "events.json").read_text())
    steps = [sum(event["steps"] for event in own) for own in executed["owners"]]
    assert all(took < planned for took, planned in zip(steps, executed["planned_steps"], strict=True))
    log = (federation.output_folder("logs") / "train" / "fl_budget-seed0.log").read_text()
    assert "has spent its privacy budget and trains no more" in log


def test_aggregations_give_same_bits_at_different_cost(federation):
    runs = federation.output_folder("artifacts") / "runs"
    ways = ("fl", "fl_bfv", "fl_bfv_shared", "fl_3_servers")
    assert len({(runs / arm / "seed0" / "model.safetensors").read_bytes() for arm in ways}) == 1
    costs = pd.read_csv(federation.output_folder("reports") / "costs.csv").set_index("arm")["expansion"]
    assert costs["fl"] == pytest.approx(1.0, abs=0.001) and 1.0 < costs["fl_3_servers"] < 1.03
    assert 2.9 < costs["fl_bfv"] < 3.4 and 1.3 < costs["fl_bfv_shared"] < 1.7


def test_partition_limits_number_of_examples(federation, records):
    assert records["n_train"].to_dict() == {arm: 200 if arm == "fl_few" else 1200 for arm in records.index}
    clients = pd.read_csv(federation.output_folder("reports") / "clients.csv")
    assert clients.loc[clients["arm"] == "fl_few", "records"].tolist() == [100, 100]


def test_tables_show_paper_and_opening_parties(federation):
    tables = federation.output_folder("reports") / "tables"
    study = (tables / "clients-clients.md").read_text()
    assert "82.4 ± 2.0" in study and " in 1 of 1 settings" in study
    summary = (tables / "federation-summary.md").read_text()
    assert "the server together with the holder of the secret key" in summary


def test_audit_rejects_half_of_distributed_noise(federation, tmp_path):
    project = federation.copy(tmp_path / "project")
    project.append("src/ppml/federation/distributed_dp.py", HALF_NOISE)
    # The audit writes its finding; the job that collects all findings refuses it.
    status, output = project.run()
    assert status != 0
    assert "audit of arm fl_shares: claims noise multiplier" in output, output[-3000:]
