"""The stages of a run in order, from a subset to the result row: calibrate, train, predict, account, collect."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ppml.accounting.epsilon import epsilon
from ppml.accounting.events import MechanismEvent
from ppml.config.arm import Arm
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.learning.evaluation import logits
from ppml.models.registry import build_model
from ppml.results.tidy_files import TIDY_FILES
from ppml.stages.example_files import read_examples
from ppml.stages.model_file import read_models

from .conftest import run_job, run_stage, train_job

PRIVATE = {
    "privacy": {"kind": "example", "noise_multiplier": 1.5, "accountant": "rdp", "max_grad_norm": 0.1},
    "training": {"epochs": 2, "batch_size": 100, "learning_rate": 1.0},
}
BUDGET = {**PRIVATE, "model": "logistic", "privacy": {**PRIVATE["privacy"], "budget": 3.0}}
PLAIN = {"training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.05}}
LOCAL = {**PLAIN, "topology": {"kind": "independent", "partition": "p"}}
FEDERATED = {"kind": "federated", "partition": "p", "rounds": 2}


def run(folder, given, subset, dataset, *, seed=0):
    """Run the stages of a run into ``folder``."""
    arm = Arm.model_validate(given)
    technique, inputs = arm.technique(), {name: subset[name] for name in ("train", "test", "about")}
    if arm.partition:
        inputs["partition"] = subset["partition"]
    if arm.privacy.kind != "none":
        noise = {"noise": folder / "noise.json"}
        run_stage("calibrate", {"arm": technique}, {"about": subset["about"]}, noise)
        inputs |= noise
    job = train_job(folder, given, inputs, dataset, seed=seed)
    run_job("train", job)

    inputs = {"model": job.outputs["model"], "test": subset["test"], "about": subset["about"]}
    predictions = {"predictions": folder / "predictions.safetensors"}
    run_stage("predict", {"model": arm.model, "device": "cpu"}, inputs, predictions)
    privacy = {"privacy": folder / "privacy.json"}
    run_stage("account", {"privacy": technique["privacy"]}, {"events": job.outputs["events"]}, privacy)


def rows_of(path):
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def gather(folder, *entries):
    """Run the stage collect on ``(arm, folder, partition)``, and return rows and metrics."""
    runs = [
        {
            "arm": arm,
            "seed": 0,
            "folder": str(place),
            "partition": partition and str(partition),
            "audit": None,
            "inference": [],
            "pictures": None,
        }
        for arm, place, partition in entries
    ]
    metrics = {arm: str(folder / "metrics" / f"{arm}.json") for arm, *_ in entries}
    arms = [arm for arm, *_ in entries]
    spec = {"runs": runs, "metrics": metrics, "audit": {"kind": "none"}, "tables": [arms], "confusion": arms}
    files = {name: folder / f"{name}.csv" for name in TIDY_FILES}
    run_stage("collect", spec, {}, files)
    rows = {name: rows_of(files[name]) for name in ("records", "costs", "history", "clients", "epsilons", "joint")}
    return rows, {arm: read_json(path) for arm, path in metrics.items()}


@pytest.fixture(scope="module")
def runs(subset, real_data, tmp_path_factory):
    """Return the folder of a finished run of each kind."""
    folders = {}
    for name, arm in (("plain", PLAIN), ("private", PRIVATE), ("local", LOCAL)):
        folders[name] = tmp_path_factory.mktemp(name)
        run(folders[name], arm, subset, real_data.dataset)
    return folders


@pytest.mark.parametrize(("name", "arm"), [("plain", PLAIN), ("private", PRIVATE), ("local", LOCAL)])
def test_seed_decides_bytes_of_run(name, arm, runs, subset, real_data, tmp_path):
    for seed, folder in ((0, tmp_path / "again"), (1, tmp_path / "other")):
        folder.mkdir()
        run(folder, arm, subset, real_data.dataset, seed=seed)
    covered = (
        "config.json",
        "model.safetensors",
        "history.csv",
        "events.json",
        "predictions.safetensors",
        "privacy.json",
    )
    for file in covered:
        assert (tmp_path / "again" / file).read_bytes() == (runs[name] / file).read_bytes(), file
    other = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert other != (runs[name] / "model.safetensors").read_bytes()


def test_predictions_are_of_final_model(runs, subset, real_data):
    predictions = load_file(runs["plain"] / "predictions.safetensors")
    test = read_examples(subset["test"], real_data.contract)
    labels = test.labels
    assert torch.equal(predictions["labels"], labels.to(torch.uint8))
    model = build_model("tanh_cnn", real_data.contract, torch.Generator())
    model.load_state_dict(read_models(runs["plain"] / "model.safetensors")[0])
    expected = logits(model, test.inputs).log_softmax(dim=1)
    assert torch.equal(predictions["predicted"], expected.argmax(dim=1)[None].to(torch.uint8))
    of_truth = expected[:100].gather(1, labels[:100, None]).T
    torch.testing.assert_close(predictions["true_log_probabilities"], of_truth)
    rows = rows_of(runs["plain"] / "history.csv")
    assert [(row["step"], row["clients"]) for row in rows] == [("1", ""), ("2", "")]
    accuracy = (predictions["predicted"][0] == labels)[:100].double().mean().item()
    assert float(rows[-1]["accuracy"]) == pytest.approx(accuracy)


def test_every_independent_client_has_a_model(runs):
    names = load_file(runs["local"] / "model.safetensors")
    assert {name.split(".", 1)[0] for name in names} == {"0", "1"}
    predictions = load_file(runs["local"] / "predictions.safetensors")
    assert (predictions["predicted"].shape, predictions["true_log_probabilities"].shape) == ((2, 300), (2, 100))


def test_private_training_executes_planned_mechanism_and_hides_its_loss(runs):
    executed = read_json(runs["private"] / "events.json")
    assert executed["owners"] == [[MechanismEvent(0.25, 1.5, 8, 0.1, "poisson", "seeded", "seeded").to_json()]]
    assert executed["mechanism"] == read_json(runs["private"] / "privacy.json")["mechanism"]
    assert (executed["planned_steps"], executed["complete"]) == ([8], True)
    with (runs["private"] / "history.csv").open(encoding="utf-8", newline="") as file:
        assert {row["train_loss"] for row in csv.DictReader(file)} == {""}
    assert read_json(runs["private"] / "privacy.json")["steps"] == 8


def test_budget_ends_training_before_step_beyond_it(subset, real_data, tmp_path, capsys):
    run(tmp_path, BUDGET, subset, real_data.dataset)
    statement = read_json(tmp_path / "privacy.json")
    assert 4 < statement["steps"] < statement["steps_planned"] == 8
    assert f"privacy.budget is spent: step {statement['steps'] + 1} of 8 was refused" in capsys.readouterr().out
    one_more = MechanismEvent(0.25, 1.5, statement["steps"] + 1, 0.1)
    assert statement["epsilon"] <= statement["budget"] == 3.0 < epsilon([one_more], 1e-5, "rdp")
    rows, _ = gather(tmp_path, ("budget", tmp_path, None))
    assert [row["step"] for row in rows["history"]] == ["1", "2"]
    assert [(row["budget"], row["steps"]) for row in rows["records"]] == [("3.0", str(statement["steps"]))]
    assert rows["epsilons"][-1]["epsilon"] == rows["records"][0]["epsilon"]


def test_config_has_seed_data_and_all_settings_but_label(runs):
    config = read_json(runs["plain"] / "config.json")
    assert (config["seed"], config["root_seed"], config["data"]["n_train"]) == (0, 2024, 400)
    assert config["arm"] == Arm.model_validate(PLAIN).technique()


def test_cost_is_measured(runs):
    cost = read_json(runs["plain"] / "cost.json")
    assert cost["seconds"] > 0 and cost["cpu_seconds"] > 0 and cost["training_memory_mb"] > 0
    assert (cost["bytes_up"], cost["bytes_down"]) == (0, 0)


def test_diverged_training_is_one_line_with_key(subset, real_data, tmp_path):
    arm = {"training": {"epochs": 3, "batch_size": 8, "learning_rate": 1e30}}
    with pytest.raises(UserError, match=r"^training: .*; lower training\.learning_rate of this arm$"):
        run(tmp_path, arm, subset, real_data.dataset)


def test_federation_of_diverged_clients_names_each_client(subset, real_data, tmp_path, capsys):
    arm = {"topology": FEDERATED, "training": {"epochs": 3, "batch_size": 8, "learning_rate": 1e30}}
    with pytest.raises(UserError, match=r"^training: round 1: 0 of 2 clients "):
        run(tmp_path, arm, subset, real_data.dataset)
    first, second = capsys.readouterr().out.splitlines()
    for client, line in enumerate((first, second)):
        assert line.startswith(f"round 1: client {client}: ") and "the loss is not finite" in line
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(("participation", "clients", "complete"), [(1.0, "2", True), (0.5, "1", False)])
def test_events_state_whether_all_clients_took_part_in_all_rounds(
    participation, clients, complete, subset, real_data, tmp_path
):
    arm = {"topology": {**FEDERATED, "participation": participation}, "training": {"epochs": 1, "batch_size": 64}}
    run(tmp_path, arm, subset, real_data.dataset)
    rows = rows_of(tmp_path / "history.csv")
    assert [(row["step"], row["clients"]) for row in rows] == [("1", clients), ("2", clients)]
    assert read_json(tmp_path / "events.json")["complete"] is complete


def test_last_good_model_of_diverged_training_is_kept(subset, real_data, tmp_path):
    arm = {**PRIVATE, "training": {"epochs": 3, "batch_size": 40, "learning_rate": 1e40}}
    with pytest.raises(UserError, match=r"after step 0 again.* in .*last-good\.safetensors"):
        run(tmp_path, arm, subset, real_data.dataset)
    (kept,) = tmp_path.rglob("last-good.safetensors")
    assert all(value.isfinite().all() for value in load_file(kept).values())
    assert not list(tmp_path.rglob("model.safetensors"))


def test_tidy_files_have_one_row_per_run(runs, subset, tmp_path):
    partitions = {"plain": None, "private": None, "local": subset["partition"]}
    rows, metrics = gather(tmp_path, *((name, folder, partitions[name]) for name, folder in runs.items()))
    assert [row["arm"] for row in rows["records"]] == [row["arm"] for row in rows["costs"]] == list(runs)
    assert [row["arm"] for row in rows["history"]] == ["plain"] * 2 + ["private"] * 2 + ["local"] * 2
    assert [(row["arm"], row["records"]) for row in rows["clients"]] == [("local", "100"), ("local", "300")]
    assert [row["epsilon"] != "" for row in rows["records"]] == [False, True, False]
    # There is one private model, and so one row.
    assert [(row["arms"], row["releases"]) for row in rows["joint"]] == [("private", "1")]
    assert rows["joint"][0]["epsilon"] == rows["records"][1]["epsilon"]
    for row, folder in zip(rows["records"], runs.values(), strict=True):
        beside = read_json(folder / "record.json")
        assert float(row["accuracy"]) == beside["accuracy"] and int(row["parameters"]) == beside["parameters"] > 1000
    assert float(rows["records"][0]["accuracy_all"]) > 0.4, "the training learns"
    assert metrics["plain"]["accuracy"] == {"mean": float(rows["records"][0]["accuracy"]), "std": None}


def test_metrics_are_mean_and_deviation_over_seeds(runs, subset, real_data, tmp_path):
    (tmp_path / "1").mkdir()
    run(tmp_path / "1", PLAIN, subset, real_data.dataset, seed=1)
    rows, metrics = gather(tmp_path, ("plain", runs["plain"], None), ("plain", tmp_path / "1", None))
    values = [float(row["accuracy_all"]) for row in rows["records"]]
    assert [row["seed"] for row in rows["records"]] == ["0", "1"]
    assert metrics["plain"]["seeds"] == 2
    assert metrics["plain"]["accuracy_all"] == pytest.approx({"mean": np.mean(values), "std": np.std(values, ddof=1)})
    assert metrics["plain"]["epsilon"] is None


def test_resnet_predicts_from_its_file_in_half_precision(subset, real_data, tmp_path):
    arm = {"model": "resnet18", "training": {"epochs": 1, "batch_size": 64, "learning_rate": 0.003}}
    run(tmp_path, arm, subset, real_data.dataset)
    trained = [float(row["accuracy"]) for row in rows_of(tmp_path / "history.csv")]
    predictions = load_file(tmp_path / "predictions.safetensors")
    right = predictions["predicted"][0] == predictions["labels"]
    assert (tmp_path / "model.safetensors").stat().st_size < 23e6
    # The history is of the model in memory on the first 100 images; the predictions are of the rounded model.
    assert right[:100].double().mean().item() == pytest.approx(trained[-1], abs=0.021)
    assert trained[-1] > 0.15
