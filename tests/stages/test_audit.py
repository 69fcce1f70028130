"""The stage audit, and that collect publishes nothing which an audit contradicts."""

import csv
import json

import pytest
import torch

from ppml.config.arm import Arm
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json
from ppml.stages import audit, collect
from ppml.stages.example_files import write_features

PRIVACY = {"kind": "example", "noise_multiplier": 1.5, "max_grad_norm": 0.1}
TRAINING = {"epochs": 4, "batch_size": 100, "learning_rate": 1.0}
FEDERATED = {"kind": "federated", "partition": "p", "rounds": 4}
STEPS = 40

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


def run(folder, *, owners=1, files=(), **keys):
    """Run the stage on an arm whose owners have 1,000 records each, and return what it wrote."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "about.json", {"classes": 10, "n_train": 1000})
    write_json(folder / "noise.json", {"noise_multipliers": [1.5] * owners})
    parts = [list(range(1000 * owner, 1000 * (owner + 1))) for owner in range(owners)]
    write_json(folder / "partition.json", {"clients": parts})
    arm = Arm.model_validate({"model": "logistic", "privacy": PRIVACY, "training": TRAINING, **keys}).technique()
    spec = {"arm": arm, "dataset": "mnist", "steps": STEPS, "root_seed": 2024, "device": "cpu"}
    files = ["--about", folder / "about.json", "--noise", folder / "noise.json", *files]
    files += ["--partition", folder / "partition.json"] if owners > 1 else []
    files += ["--output", folder / "audit.json"]
    audit.main(["--spec", json.dumps(spec), "--seed", "0", *map(str, files)])
    return read_json(folder / "audit.json")


def gather(folder, *, published=None, **audits):
    """Run the stage collect on audits alone, of arms by name, and return the rows of audits.csv."""
    runs = []
    for arm, measured in audits.items():
        (folder / arm).mkdir(exist_ok=True)
        write_json(folder / arm / "audit.json", measured)
        write_json(folder / arm / "privacy.json", {**STATED, **(published or {})})
        runs.append(
            {
                "arm": arm,
                "seed": 0,
                "folder": str(folder / arm),
                "partition": None,
                "audit": str(folder / arm / "audit.json"),
            }
        )
    return collect.judge_audits({"runs": runs, "audit": {"confidence": 0.99}})


# What a training of 40 steps states, about.
STATED = {"epsilon": 2.35, "delta": 1e-5, "noise_multiplier": 1.5, "sample_rate": 0.1, "steps": 40}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return run(tmp_path_factory.mktemp("audit") / "first")


def test_the_noise_and_the_epsilon_that_are_measured_are_near_those_that_are_claimed(measured, tmp_path):
    assert (measured["noise_multiplier"], measured["max_grad_norm"], measured["releases"]) == (1.5, 0.1, STEPS)
    assert measured["parameters"] == 7_850 and measured["canary_norm"] > 10 * 0.1
    assert measured["contribution"] == pytest.approx(0.1, rel=1e-3)
    (row,) = gather(tmp_path, dp=measured)
    assert row["held"] and row["low"] <= 1.5 <= row["high"]
    assert 0.8 * row["epsilon"] <= row["epsilon_low"] <= row["epsilon"] == STATED["epsilon"]
    assert (row["arm"], row["seed"], row["coins"], row["family"]) == ("dp", 0, 20 * STEPS, 1)


def test_clients_of_a_federation_are_audited_with_what_lies_at_each(tmp_path):
    found = run(tmp_path / "clients", owners=3, topology=FEDERATED, training={**TRAINING, "epochs": 1})
    assert found["accounted"] == [] and found["releases"] == 3 * 4 * 10 and found["coins"] == 3 * 4 * 10 * 20


def test_records_have_the_features_that_an_arm_is_trained_on(tmp_path):
    features = torch.randn(20, 2, 30, generator=torch.Generator().manual_seed(1))
    write_features(tmp_path / "train.safetensors", features / features.norm(dim=-1, keepdim=True), torch.zeros(20))
    keys = {"model": "linear", "features": {"kind": "scattering", "copies": 2, "components": 29}}
    found = run(tmp_path / "features", files=("--features", tmp_path / "train.safetensors"), **keys)
    assert found["parameters"] == 300 and found["deviation"] < 1e-4


def test_another_arm_draws_other_noise(measured, tmp_path):
    other = run(tmp_path / "other", training={**TRAINING, "learning_rate": 0.5})
    assert other["estimate"] != measured["estimate"]


def test_halved_noise_is_refused_by_name_before_anything_is_collected(measured, tmp_path):
    half = {**measured, "estimate": measured["estimate"] / 2}
    with pytest.raises(UserError) as caught:
        gather(tmp_path, good=measured, bad=half)
    first, *_, last = str(caught.value).splitlines()
    assert first.startswith("audit of arm bad: claims noise multiplier 1.5, releases 0.")
    assert "bad/audit.json" in first
    assert last == "nothing is published while the audit contradicts a claim"


@pytest.mark.parametrize("published", [{"epsilon": 0.3}, {"steps": 160, "epsilon": 2.0}, {"noise_multiplier": 0.7}])
def test_an_epsilon_below_what_the_releases_show_is_refused(measured, tmp_path, published):
    with pytest.raises(UserError, match=r"publishes epsilon .*, which the releases show to be at least"):
        gather(tmp_path, published=published, dp=measured)


def test_a_step_without_an_account_is_refused(measured, tmp_path):
    fault = "owner 0 takes 40 steps, 20 are accounted for"
    with pytest.raises(UserError, match=f"audit of arm dp: {fault}"):
        gather(tmp_path, dp={**measured, "accounted": [fault]})


def test_intervals_are_wider_the_more_arms_are_judged_together(measured, tmp_path):
    (alone,) = gather(tmp_path, dp=measured)
    together = gather(tmp_path, **{f"arm{number}": measured for number in range(9)})
    assert {row["family"] for row in together} == {9}
    assert together[0]["low"] < alone["low"] < alone["high"] < together[0]["high"]
    assert together[0]["epsilon_low"] < alone["epsilon_low"]


def test_without_an_audit_the_file_has_its_columns_and_no_row(tmp_path):
    names = ("records", "costs", "history", "clients", "epsilons", "audits", "inferences", "joint", "metrics")
    files = [part for name in names for part in (f"--output-{name}", str(tmp_path / name))]
    with pytest.raises(KeyError):
        # Nothing to summarise either: a configuration has an arm.
        collect.main(["--spec", json.dumps({"runs": [], "audit": {"kind": "none"}, "tables": []}), *files])
    with (tmp_path / "audits").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 and rows[0][:4] == ["arm", "seed", "noise_multiplier", "estimate"]
