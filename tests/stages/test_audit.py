"""The stage audit, and that collect publishes nothing which an audit contradicts."""

import csv
import json

import pytest

from ppml.config.arm import Arm
from ppml.errors import UserError
from ppml.records.files import read_json, write_json
from ppml.stages import audit, collect

PRIVACY = {"kind": "example", "noise_multiplier": 1.5, "max_grad_norm": 0.1}
STEPS = 64

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


def run(folder, *, noise=1.5, seed=0, **keys):
    """Run the stage and return what it wrote."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "about.json", {"classes": 10})
    write_json(folder / "noise.json", {"noise_multipliers": [noise, 99.0]})
    technique = Arm.model_validate({"privacy": PRIVACY, **keys}).technique()
    technique.pop("training")
    spec = {"technique": technique, "steps": STEPS, "root_seed": 2024, "device": "cpu"}
    files = ["--about", folder / "about.json", "--noise", folder / "noise.json", "--output", folder / "audit.json"]
    audit.main(["--spec", json.dumps(spec), "--seed", str(seed), *map(str, files)])
    return read_json(folder / "audit.json")


def gather(folder, **audits):
    """Run the stage collect on audits alone, of arms by name, and return the rows of audits.csv."""
    runs = []
    for arm, measured in audits.items():
        write_json(folder / f"{arm}.json", measured)
        runs.append({"arm": arm, "seed": 0, "folder": "", "partition": None, "audit": str(folder / f"{arm}.json")})
    return collect.judge_audits({"runs": runs, "audit": {"confidence": 0.99}})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return run(tmp_path_factory.mktemp("audit") / "first")


def test_the_claim_is_the_first_owners_noise_and_holds(measured, tmp_path):
    assert (measured["noise_multiplier"], measured["max_grad_norm"], measured["steps"]) == (1.5, 0.1, STEPS)
    assert measured["parameters"] == 26_106
    assert measured["canary_norm"] > 10 * 0.1
    assert measured["contribution"] == pytest.approx(0.1, rel=1e-4)
    (row,) = gather(tmp_path, dp=measured)
    assert row["held"] and row["low"] <= 1.5 <= row["high"] and row["control_high"] < 1.5
    assert (row["arm"], row["seed"], row["coins"], row["family"]) == ("dp", 0, 4 * STEPS, 1)


def test_another_technique_draws_other_noise(measured, tmp_path):
    federated = {"kind": "federated", "partition": "p", "rounds": 2}
    assert run(tmp_path / "other", topology=federated)["estimate"] != measured["estimate"]


def test_halved_noise_is_refused_by_name_before_anything_is_collected(measured, tmp_path):
    half = {**measured, "estimate": measured["control"]}
    with pytest.raises(UserError) as caught:
        gather(tmp_path, good=measured, bad=half)
    first, last = str(caught.value).splitlines()
    assert first.startswith("audit of arm bad: claims noise multiplier 1.5, releases 0.")
    assert "bad.json" in first
    assert last == "nothing is published while the audit contradicts a claim"


def test_intervals_are_wider_the_more_arms_are_judged_together(measured, tmp_path):
    (alone,) = gather(tmp_path, dp=measured)
    together = gather(tmp_path, **{f"arm{number}": measured for number in range(9)})
    assert {row["family"] for row in together} == {9}
    assert together[0]["low"] < alone["low"] < alone["high"] < together[0]["high"]


def test_without_an_audit_the_file_has_its_columns_and_no_row(tmp_path):
    names = ("records", "costs", "history", "clients", "epsilons", "audits", "inferences", "metrics")
    files = [part for name in names for part in (f"--output-{name}", str(tmp_path / name))]
    with pytest.raises(KeyError):
        # Nothing to summarise either: a configuration has an arm.
        collect.main(["--spec", json.dumps({"runs": [], "audit": {"kind": "none"}}), *files])
    with (tmp_path / "audits").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 and rows[0][:4] == ["arm", "seed", "noise_multiplier", "estimate"]
