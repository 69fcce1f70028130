"""Data sets of other shapes and classes pass all stages through configuration alone; misfits are refused."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from ppml.config.load import parse_config
from ppml.config.model import Config
from ppml.config.models import fitting_models
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.jobs.job import Job
from ppml.pipeline.plan import Plan, PlannedJob
from ppml.pipeline.stages import STAGE, Stage
from ppml.preflight import resolve_data
from ppml.stages.example_files import read_examples, read_raw_examples, write_examples
from ppml.stages.seeds import public_data
from tests.stages.conftest import deterministic
from tests.workflow.synthetic_data import SyntheticData, parameter_count, write_dataset

SETS = {
    "two_classes": (SyntheticData("image", (1, 16, 16), 2), "mlp", "square_cnn"),
    "letters": (SyntheticData("image", (1, 28, 28), 26, train=520, test=260), "logistic", "logistic"),
    "larger": (SyntheticData("image", (1, 32, 32), 3), "tanh_cnn", "logistic"),
    "colour": (SyntheticData("image", (3, 32, 32), 4), "mlp", "logistic"),
    "columns": (SyntheticData("table", (40,), 3), "mlp", None),
}
"""Name -> data, the model of most arms, and the model that predicts encrypted images."""
PRIVATE = {"kind": "example", "noise_multiplier": 0.6, "max_grad_norm": 1.0, "accountant": "rdp"}
FEDERATED = {"kind": "federated", "partition": "halves", "rounds": 3}
RATES = {"logistic": 0.5, "mlp": 0.2, "tanh_cnn": 0.1}
"""Model -> learning rate."""
TABLES, FIGURES = ["summary"], ["labels", "client_epsilon", "privacy_utility"]


def arms_of(model: str, encrypted: str | None) -> dict[str, Any]:
    """Return the arms by name."""
    training = {"epochs": 6, "batch_size": 20, "learning_rate": RATES[model]}
    base = {"model": model, "training": training}
    arms = {
        "centralized": base,
        "dp": {**base, "privacy": PRIVATE},
        "fl": {**base, "topology": FEDERATED, "training": {**training, "epochs": 2}},
        "fl_dp": {**base, "topology": FEDERATED, "training": {**training, "epochs": 2}, "privacy": PRIVATE},
    }
    if encrypted:
        inference = {"kind": "ckks", "images": 8, "single_images": 1}
        # Logits of at most 128 fit into the plaintext ring.
        slow = {**training, "learning_rate": 0.02 if encrypted == "square_cnn" else 0.002}
        arms["encrypted"] = {"model": encrypted, "training": slow, "inference": inference}
    return arms


def configuration(folder: Path, datasets: dict[str, Any], **others: Any) -> Config:
    """Return a configuration on data sets in the mirror below ``folder``; the first one is the default."""
    given = {
        "seeds": [0],
        "folders": {key: str(folder / key) for key in ("data", "artifacts", "reports", "logs")},
        "data": {
            "dataset": next(iter(datasets)),
            "train": 1000,
            "test": 50,
            "mirrors": [str(folder / "mirror")],
            "download": False,
            "define": datasets,
        },
        "partitions": {"halves": {"kind": "iid", "clients": 2}},
        "arms": {"a": {"model": "logistic", "training": {"epochs": 1}}},
        **others,
    }
    return parse_config(given, "CONFIG")


def run_all(plan: Plan, *stages: Stage) -> list[PlannedJob]:
    """Run every job of a plan, or of some stages, in order, in this process."""
    jobs = list(plan.jobs(*stages))
    # Code digests take seconds, and change no result.
    with mock.patch.object(PlannedJob, "digest", "code"), deterministic():
        for job in jobs:
            stage, *options = shlex.split(job.arguments())
            importlib.import_module(f"ppml.stages.{stage}").run(Job.parse(options))
    return jobs


@pytest.mark.parametrize(("name", "made", "model", "encrypted"), [(name, *rest) for name, rest in SETS.items()])
def test_synthetic_data_pass_all_stages(
    name: str, made: SyntheticData, model: str, encrypted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PPML_DATA_MIRROR", raising=False)
    arms = arms_of(model, encrypted)
    config = configuration(
        tmp_path,
        {name: made.write(tmp_path / "mirror", name)},
        arms=arms,
        audit={"kind": "canary", "steps": 32},
        experiments={"all": {"title": "All", "arms": list(arms), "tables": TABLES, "figures": FIGURES}},
    )
    assert resolve_data(config, tmp_path / "data" / "raw") is None
    plan = Plan(config, None)
    jobs = run_all(plan)
    stages = {"fetch", "subset", "partition", "calibrate", "train", "predict", "account", "audit", "collect"}
    assert {job.stage.name for job in jobs} == stages | {"table", "figure"} | ({"infer"} if encrypted else set())
    assert all(Path(file).stat().st_size for job in jobs for file in job.output_files())

    check_subset(plan, name, made)
    check_runs(plan, made, {arm: spec["model"] for arm, spec in arms.items()})
    check_partition(plan, made)
    if encrypted:
        path = plan.paths.run("encrypted", 0)
        result, cost = read_json(f"{path}/inference.json"), read_json(f"{path}/inference-cost.json")
        assert result["images"] == 8 and cost["right"] == result["plain_right"] and cost["differ"] == 0
    summary = Path(plan.paths.table("all", "summary")["csv"]).read_text()
    assert len(summary.splitlines()) >= 1 + len(arms)
    assert all(Path(plan.paths.figure("all", kind)["svg"]).read_text().startswith("<?xml") for kind in FIGURES)


def check_subset(plan: Plan, name: str, made: SyntheticData) -> None:
    """Compare the stored and the normalised examples with the synthetic arrays."""
    files = plan.paths.subset(name)
    about = read_json(files["about"])
    contract = plan.config.dataset(name).contract
    assert about["contract"] == contract.to_json()
    assert (about["n_train"], about["n_test"], about["n_test_all"]) == (made.train, 50, made.test)
    inputs, labels, *_ = made.arrays()
    stored = load_file(files["train"])
    assert np.array_equal(stored["inputs"], inputs) and np.array_equal(stored["labels"], labels)
    expected = (inputs / 255.0 - 0.5) / 0.2 if made.kind == "image" else inputs
    read = read_examples(files["train"], contract)
    assert read.inputs.shape == (made.train, *made.shape)
    np.testing.assert_allclose(read.inputs.numpy(), expected, atol=1e-5)


def check_runs(plan: Plan, made: SyntheticData, models: dict[str, str]) -> None:
    """Check predictions, numbers of parameters, accuracy and epsilon of each arm."""
    records = pd.read_csv(plan.paths.tidy("records")).set_index("arm")
    assert set(records.index) == set(models)
    labels = made.arrays()[3]
    for arm, model in models.items():
        predictions = load_file(plan.paths.run(arm, 0, "predictions.safetensors"))
        assert predictions["predicted"].shape == (1, made.test)
        assert sorted(predictions["labels"]) == sorted(labels)
        assert records.parameters[arm] == parameter_count(model, made.shape, made.classes), arm
        right = predictions["predicted"][0] == predictions["labels"]
        assert records.accuracy_all[arm] == pytest.approx(right.mean())
        # Random predictions have accuracy 1 / classes.
        assert right.mean() > 0.3 + 0.7 / made.classes, (arm, right.mean())
        assert pd.isna(records.epsilon[arm]) == (arm not in ("dp", "fl_dp"))
    audits = pd.read_csv(plan.paths.tidy("audits"))
    assert set(audits.arm) == {"dp", "fl_dp"} and audits.held.all()


def check_partition(plan: Plan, made: SyntheticData) -> None:
    """Check that every client has a count for each class."""
    clients = pd.read_csv(plan.paths.tidy("clients"))
    columns = [column for column in clients if column.startswith("label_")]
    assert columns == [f"label_{label}" for label in range(made.classes)]
    counts = clients[clients.arm == "fl"]
    assert len(counts) == 2 and counts.records.sum() == made.train
    assert counts[columns].to_numpy().sum(axis=0).tolist() == np.bincount(made.arrays()[1]).tolist()


def test_arms_on_data_of_different_classes_share_tidy_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPML_DATA_MIRROR", raising=False)
    sets = {"small": SyntheticData("image", (1, 28, 28), 2), "columns": SyntheticData("table", (40,), 3)}
    arm = {"model": "logistic", "topology": FEDERATED, "training": {"epochs": 1, "batch_size": 20}}
    config = configuration(
        tmp_path,
        {name: made.write(tmp_path / "mirror", name) for name, made in sets.items()},
        arms={name: {**arm, "dataset": name} for name in sets},
        experiments={name: {"title": name, "arms": [name], "tables": TABLES, "figures": ["labels"]} for name in sets},
    )
    plan = Plan(config, None)
    run_all(plan)
    clients = pd.read_csv(plan.paths.tidy("clients")).set_index("arm")
    for name, made in sets.items():
        counts = clients.loc[name].filter(like="label_").to_numpy()
        assert np.nansum(counts, axis=0)[: made.classes].tolist() == np.bincount(made.arrays()[1]).tolist()


# Misfits are refused before the first job.

IMAGES, COLOUR, COLUMNS, TINY = (
    SyntheticData("image", (1, 28, 28), 2),
    SyntheticData("image", (3, 32, 32), 2),
    SyntheticData("table", (40,), 2),
    SyntheticData("image", (1, 7, 7), 2),
)
FILES = [{"name": name, "md5": "0" * 32} for name in "abcd"]


def declared(made: SyntheticData, arm: dict[str, Any], folder: Path) -> Config:
    """Return a configuration of one arm on a data set without files."""
    return configuration(folder, {"mine": {"kind": "idx", "files": FILES, **made.facts()}}, arms={"a": arm})


@pytest.mark.parametrize(
    ("made", "model"),
    [(COLUMNS, "tanh_cnn"), (COLUMNS, "resnet18"), (COLUMNS, "square_cnn"), (IMAGES, "linear"), (TINY, "tanh_cnn")],
)
def test_misfit_model_is_refused_with_fitting_ones(made: SyntheticData, model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        declared(made, {"model": model}, tmp_path)
    message = str(caught.value)
    fitting = fitting_models(declared(made, {"model": "logistic"}, tmp_path).contract_of("a"))
    assert f"arms.a.model: got '{model}'" in message and "\n" not in message
    assert message.endswith(f": {', '.join(fitting)}") and fitting and model not in fitting


@pytest.mark.parametrize(
    ("made", "arm", "key"),
    [
        (COLUMNS, {"training": {"shift": 1}}, "arms.a.training.shift"),
        (COLUMNS, {"training": {"deformation": {"rotation": 5.0}}}, "arms.a.training.deformation"),
        (COLOUR, {"training": {"deformation": {"rotation": 5.0}}}, "arms.a.training.deformation"),
        (COLOUR, {"model": "linear", "transforms": [{"kind": "scattering"}]}, "arms.a.transforms"),
        (COLUMNS, {"model": "linear", "transforms": [{"kind": "scattering"}]}, "arms.a.transforms"),
        (IMAGES, {"model": "linear", "transforms": [{"kind": "scattering"}] * 2}, "arms.a.transforms"),
    ],
)
def test_misfit_augmentation_or_transform_is_refused(
    made: SyntheticData, arm: dict[str, Any], key: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"^CONFIG: {key}: ") as caught:
        declared(made, {"model": "logistic", **arm}, tmp_path)
    assert "\n" not in str(caught.value)


def test_name_of_known_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.define\.mnist: config/datasets\.yaml has .* take another name$"):
        configuration(tmp_path, {"mnist": {"kind": "idx", "files": FILES, **IMAGES.facts()}})


@pytest.mark.parametrize(
    ("made", "replacement"),
    [
        (replace(IMAGES, classes=10), "digits"),
        (IMAGES, None),
        (COLOUR, None),
        # A model for tables takes any number of columns.
        (COLUMNS, "breast_cancer"),
        (replace(COLUMNS, classes=3), None),
    ],
)
def test_fallback_replaces_data_that_it_fits_only(made: SyntheticData, replacement: str | None, tmp_path: Path) -> None:
    config = declared(made, {"model": "logistic"}, tmp_path)
    if replacement:
        assert resolve_data(config, tmp_path / "raw") == "digits"
        assert config.used_dataset("a", "digits") == replacement
        return
    with pytest.raises(UserError, match="no source has mine") as caught:
        resolve_data(config, tmp_path / "raw")
    assert "digits cannot replace it" in str(caught.value) and "\n" not in str(caught.value)


# Files that contradict the entry.


def subset_error(folder: Path, made: SyntheticData, **changes: Any) -> str:
    """Fetch and select a data set whose arrays or facts are changed, and return the error."""
    arrays = dict(zip(("inputs", "labels", "test_inputs", "test_labels"), made.arrays(), strict=True))
    facts = {**made.facts(), **changes.pop("facts", {})}
    entry = write_dataset(folder / "mirror" / "mine", list((arrays | changes).values()), facts)
    with pytest.raises(UserError) as caught:
        run_all(Plan(configuration(folder, {"mine": entry}), None))
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"mine: {folder / 'data' / 'raw' / 'mine'}/")
    assert not list(folder.rglob("*.safetensors"))
    return message


def changed(array: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
    copy = array.copy()
    copy.flat[-1] = value
    return copy


@pytest.mark.parametrize(
    ("made", "changes", "parts"),
    [
        (IMAGES, {"facts": {"shape": [1, 28, 27]}}, ["train-inputs.gz", "28x28", "1x28x27", "shape"]),
        (COLUMNS, {"facts": {"shape": [41]}}, ["train-inputs.gz", "40", "41 columns", "shape"]),
        (
            IMAGES,
            {"labels": changed(IMAGES.arrays()[1], 2)},
            ["train-labels.gz", "example 200 has label 2", "0 to 1", "2 classes", "classes"],
        ),
        (
            IMAGES,
            {"labels": changed(IMAGES.arrays()[1].astype("i4"), -1)},
            ["train-labels.gz", "example 200 has label -1", "0 to 1", "2 classes"],
        ),
        (IMAGES, {"labels": IMAGES.arrays()[1] + np.float32(0.4)}, ["train-labels.gz", ">f4", "integers"]),
        (IMAGES, {"labels": IMAGES.arrays()[1].reshape(-1, 1, 1)}, ["train-labels.gz", "200x1x1", "integers"]),
        (IMAGES, {"labels": IMAGES.arrays()[1][:-1]}, ["train-inputs.gz", "200 examples", "199 labels"]),
        (IMAGES, {"inputs": IMAGES.arrays()[0].astype("f4")}, ["train-inputs.gz", "float32", "uint8", "state `white`"]),
        (
            COLUMNS,
            {"inputs": changed(COLUMNS.arrays()[0], np.nan)},
            ["train-inputs.gz", "row 200, column 40: nan", "not finite", "replace"],
        ),
        (
            COLUMNS,
            {"inputs": changed(COLUMNS.arrays()[0], np.inf)},
            ["train-inputs.gz", "row 200, column 40: inf", "not finite", "replace"],
        ),
        (
            COLUMNS,
            {"test_labels": changed(COLUMNS.arrays()[3], 7)},
            ["test-labels.gz", "example 100 has label 7", "0 to 1", "2 classes"],
        ),
    ],
)
def test_entry_that_contradicts_files_is_refused(
    made: SyntheticData, changes: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    message = subset_error(tmp_path, made, **changes)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("change", ["constants", "files"])
def test_other_data_of_the_same_name_draw_other_noise(change: str, tmp_path: Path) -> None:
    found = []
    for folder, changed_data in ((tmp_path / "a", False), (tmp_path / "b", True), (tmp_path / "c", False)):
        arrays, facts = list(IMAGES.arrays()), IMAGES.facts()
        if changed_data and change == "constants":
            facts["mean"] = [0.125]
        elif changed_data:
            arrays[0] = changed(arrays[0], 7)
        entry = write_dataset(folder / "mirror" / "mine", arrays, facts)
        plan = Plan(configuration(folder, {"mine": entry}), None)
        run_all(plan, STAGE["fetch"], STAGE["subset"])
        found.append(public_data(read_json(plan.subset("a")["about"]), None))
    first, other, again = found
    assert first == again != other


def test_table_is_never_read_as_pixels(tmp_path: Path) -> None:
    table = declared(replace(COLUMNS, shape=(784,)), {"model": "logistic"}, tmp_path).contract_of("a")
    image = declared(IMAGES, {"model": "logistic"}, tmp_path).contract_of("a")
    values = torch.rand(5, 784) * 255
    labels = torch.zeros(5, dtype=torch.int64)
    write_examples(tmp_path / "table", values, labels, table)
    write_examples(tmp_path / "image", values.view(5, 1, 28, 28), labels, image)
    assert torch.equal(read_raw_examples(tmp_path / "table", table).inputs, values)
    for file, contract in (("table", image), ("image", table), ("table", table.features(784))):
        with pytest.raises(UserError, match="do not fit") as caught:
            read_raw_examples(tmp_path / file, contract)
        assert str(tmp_path / file) in str(caught.value)
