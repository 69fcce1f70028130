"""The stage audit, and the refusal of collect to publish a contradicted claim."""

import pytest
import torch

from ppml.auditing.verdict import COLUMNS
from ppml.config.arm import Arm
from ppml.contract import DataContract
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json
from ppml.results.tidy_files import TIDY_FILES
from ppml.stages import collect
from ppml.stages.example_files import write_examples

from .conftest import run_stage

PRIVACY = {"kind": "example", "noise_multiplier": 1.5, "max_grad_norm": 0.1}
TRAINING = {"epochs": 4, "batch_size": 100, "learning_rate": 1.0}
FEDERATED = {"kind": "federated", "partition": "p", "rounds": 4}
STEPS = 40


IMAGES = DataContract(shape=(1, 28, 28), classes=10)


def run(folder, *, owners=1, contract=IMAGES, train=None, **keys):
    """Run the stage on an arm whose owners have 1,000 examples each, and return the content of its file."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "about.json", {"n_train": 1000, "contract": contract.to_json()})
    write_json(folder / "noise.json", {"noise_multipliers": [1.5] * owners})
    parts = [list(range(1000 * owner, 1000 * (owner + 1))) for owner in range(owners)]
    write_json(folder / "partition.json", {"clients": parts})
    arm = Arm.model_validate({"model": "logistic", "privacy": PRIVACY, "training": TRAINING, **keys}).technique()
    spec = {"arm": arm, "dataset": "mnist", "steps": STEPS, "root_seed": 2024, "device": "cpu"}
    inputs = {name: folder / f"{name}.json" for name in ("about", "noise", *(["partition"] if owners > 1 else []))}
    write_json(folder / "source.json", {"contract": IMAGES.to_json()})
    inputs |= {"source": folder / "source.json", **({"train": train} if train else {})}
    run_stage("audit", spec, inputs, {"audit": folder / "audit.json"})
    return read_json(folder / "audit.json")


def gather(folder, *, published=None, **audits):
    """Judge the audits of arms by name as the stage collect does, and return the rows of audits.csv."""
    runs = []
    for arm, measured in audits.items():
        (folder / arm).mkdir(exist_ok=True)
        write_json(folder / arm / "audit.json", measured)
        write_json(folder / arm / "privacy.json", {**STATED, **(published or {})})
        run = {"arm": arm, "seed": 0, "folder": str(folder / arm), "partition": None}
        runs.append({**run, "audit": str(folder / arm / "audit.json")})
    return collect.judge_audits({"runs": runs, "audit": {"confidence": 0.99}})


# About the statement of a training of 40 steps.
STATED = {"epsilon": 2.35, "delta": 1e-5, "noise_multiplier": 1.5, "sample_rate": 0.1, "steps": 40}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return run(tmp_path_factory.mktemp("audit") / "first")


def test_measured_noise_and_epsilon_are_near_claims(measured, tmp_path):
    assert (measured["noise_multiplier"], measured["max_grad_norm"], measured["releases"]) == (1.5, 0.1, STEPS)
    assert measured["parameters"] == 7_850 and measured["canary_norm"] > 10 * 0.1
    assert measured["contribution"] == pytest.approx(0.1, rel=1e-3)
    (row,) = gather(tmp_path, dp=measured)
    assert row["held"] and row["low"] <= 1.5 <= row["high"]
    assert 0.8 * row["epsilon"] <= row["epsilon_low"] <= row["epsilon"] == STATED["epsilon"]
    assert (row["arm"], row["seed"], row["coins"], row["family"]) == ("dp", 0, 20 * STEPS, 1)


def test_every_client_of_a_federation_is_audited(tmp_path):
    found = run(tmp_path / "clients", owners=3, topology=FEDERATED, training={**TRAINING, "epochs": 1})
    assert found["accounted"] == [] and found["releases"] == 3 * 4 * 10 and found["coins"] == 3 * 4 * 10 * 20


def test_audit_of_arm_with_transforms_takes_transformed_inputs(tmp_path):
    contract, path = IMAGES.features(30), tmp_path / "train.safetensors"
    features = torch.randn(20, 2, 30, generator=torch.Generator().manual_seed(1))
    write_examples(path, features / features.norm(dim=-1, keepdim=True), torch.zeros(20), contract)
    keys = {"model": "linear", "transforms": [{"kind": "scattering", "copies": 2, "components": 29}]}
    found = run(tmp_path / "features", contract=contract, train=path, **keys)
    assert found["parameters"] == 300 and found["deviation"] < 1e-4


def test_other_arm_draws_other_noise(measured, tmp_path):
    other = run(tmp_path / "other", training={**TRAINING, "learning_rate": 0.5})
    assert other["estimate"] != measured["estimate"]


def test_halved_noise_is_refused_with_name_of_arm(measured, tmp_path):
    half = {**measured, "estimate": measured["estimate"] / 2}
    with pytest.raises(UserError) as caught:
        gather(tmp_path, good=measured, bad=half)
    first, *_, last = str(caught.value).splitlines()
    assert first.startswith("audit of arm bad: claims noise multiplier 1.5, releases 0.")
    assert "bad/audit.json" in first
    assert last.startswith("nothing is published")


@pytest.mark.parametrize("published", [{"epsilon": 0.3}, {"steps": 160, "epsilon": 2.0}, {"noise_multiplier": 0.7}])
def test_epsilon_below_measured_bound_is_refused(measured, tmp_path, published):
    with pytest.raises(UserError, match=r"audit of arm dp: publishes epsilon \S+, below the lower bound"):
        gather(tmp_path, published=published, dp=measured)


def test_step_without_account_is_refused(measured, tmp_path):
    fault = "owner 0 takes 40 steps, 20 are accounted for"
    with pytest.raises(UserError, match=f"audit of arm dp: {fault}"):
        gather(tmp_path, dp={**measured, "accounted": [fault]})


def test_intervals_widen_with_number_of_judged_arms(measured, tmp_path):
    (single,) = gather(tmp_path, dp=measured)
    together = gather(tmp_path, **{f"arm{number}": measured for number in range(9)})
    assert {row["family"] for row in together} == {9}
    assert together[0]["low"] < single["low"] < single["high"] < together[0]["high"]
    assert together[0]["epsilon_low"] < single["epsilon_low"]


def test_csv_without_row_has_header():
    header = collect.to_csv([], TIDY_FILES["audits"].columns)
    assert header.startswith("arm,seed,noise_multiplier,estimate") and header.count("\n") == 1


def test_declared_columns_are_those_of_audit_row():
    assert TIDY_FILES["audits"].columns == COLUMNS
