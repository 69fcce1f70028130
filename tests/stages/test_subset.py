"""The stage subset: the selected examples and their contract."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from ppml.config.datasets import DATASETS, parse_dataset
from ppml.contract import DataContract
from ppml.data.loading import load_splits
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.stages import subset

from .conftest import run_stage

SPEC = {"dataset": "digits", "train": 200, "test": 50, "selection": "first", "evaluate_on": "test"}


DIGITS = DATASETS["digits"]


def make(folder, raw=None, catalogued=True, source=None, **changes):
    """Run the stage, and return its three files: the arrays of train and test, and the metadata."""
    spec = {**SPEC, **changes}
    source = source or DATASETS[spec["dataset"]]
    spec |= {"source": source.to_json(), "contract": source.contract.to_json(), "catalogued": catalogued}
    outputs = {name: folder / name for name in ("train", "test", "about")}
    run_stage("subset", spec, raw or {}, outputs)
    return load_file(outputs["train"]), load_file(outputs["test"]), read_json(outputs["about"])


def keys(images):
    return [image.tobytes() for image in images]


def test_first_images_train_and_test_images_of_papers_come_first(tmp_path):
    train, test, about = make(tmp_path)
    official_train, official_test = load_splits(DIGITS, {})
    assert np.array_equal(train["inputs"], official_train.inputs[:200])
    assert np.array_equal(test["inputs"], official_test.inputs)
    assert (about["n_train"], about["n_test"], about["n_test_all"]) == (200, 50, 360)
    assert DataContract.model_validate(about["contract"]) == DIGITS.contract


def test_stratified_test_images_come_first(tmp_path):
    _, test, about = make(tmp_path, selection="stratified")
    _, official_test = load_splits(DIGITS, {})
    counts, totals = (np.bincount(labels, minlength=10) for labels in (test["labels"][:50], official_test.labels))
    assert np.all(np.abs(counts - 50 * totals / 360) < 1)
    assert sorted(keys(test["inputs"])) == sorted(keys(official_test.inputs))
    assert about["n_test"] == 50


@pytest.mark.parametrize("selection", ["first", "stratified"])
def test_holdout_is_disjoint_part_of_training_file(selection, tmp_path):
    train, test, about = make(tmp_path, evaluate_on="holdout", selection=selection)
    official_train, _ = load_splits(DIGITS, {})
    assert not set(keys(train["inputs"])) & set(keys(test["inputs"]))
    assert set(keys(test["inputs"])) <= set(keys(official_train.inputs))
    assert (len(train["labels"]), about["n_test"], about["n_test_all"]) == (200, 50, 1437 - 200)


def test_holdout_loads_training_part_only(tmp_path, monkeypatch):
    requested = []
    monkeypatch.setattr(subset, "load_splits", lambda *given: requested.append(given[2]) or load_splits(*given))
    make(tmp_path, evaluate_on="holdout")
    make(tmp_path)
    assert requested == [("train",), ("train", "test")]


def test_holdout_opens_no_test_file(published, tmp_path):
    raw = {name: path for name, path in published("mnist").items() if "t10k" not in name}
    raw |= {file.name: tmp_path / file.name for file in DATASETS["mnist"].files_of("test")}
    train, test, _ = make(tmp_path, raw, dataset="mnist", evaluate_on="holdout")
    assert (len(train["labels"]), len(test["labels"])) == (200, 10_000)
    with pytest.raises(FileNotFoundError, match="t10k"):
        make(tmp_path, raw, dataset="mnist")


def test_holdout_of_mnist_has_10000_images(published, tmp_path):
    train, test, about = make(tmp_path, published("mnist"), dataset="mnist", evaluate_on="holdout", train=100)
    assert train["labels"][:5].tolist() == [5, 0, 4, 1, 9]
    assert (about["n_test"], about["n_test_all"], len(test["labels"])) == (50, 10_000, 10_000)


def test_holdout_without_remaining_examples_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        make(tmp_path, evaluate_on="holdout", train=1437)
    message = str(caught.value)
    assert message.startswith("digits: data.evaluate_on: holdout ") and message.endswith(" all 1437; lower data.train")
    assert not list(tmp_path.iterdir())


def test_larger_numbers_than_available_take_all_examples(tmp_path):
    _, _, about = make(tmp_path, train=10_000, test=2_000)
    assert (about["n_train"], about["n_test"], about["n_test_all"]) == (1437, 360, 360)


def test_settings_decide_bytes_and_digest(tmp_path):
    first, again, other = (
        make(tmp_path / name, train=train)[2] for name, train in (("a", 200), ("b", 200), ("c", 201))
    )
    for name in ("train", "test", "about"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first["digest"] == again["digest"] != other["digest"]


def test_identity_is_that_of_normalised_training_examples(tmp_path):
    def identity(name, *, catalogued=False, train=200, **facts):
        (tmp_path / name).mkdir()
        source = parse_dataset({**DIGITS.to_json(), **facts})
        return make(tmp_path / name, train=train, catalogued=catalogued, source=source)[2]["identity"]

    assert identity("a", catalogued=True) is None
    base = identity("b")
    assert base == identity("c", citation="another")
    assert len({base, identity("d", train=201), identity("e", mean=[0.5]), identity("f", deviation=[0.5])}) == 4


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (1, r"^digits: the 1 training examples have one class only, '0'; set data\.selection: stratified, or raise"),
        (9, r"^digits: the test has classes that training lacks: '9' \(37 examples\); .* allow_new_classes: true$"),
    ],
)
def test_subset_that_lacks_a_class_is_refused(train, message, tmp_path):
    with pytest.raises(UserError, match=message):
        make(tmp_path, train=train)
    assert not list(tmp_path.iterdir())


def test_test_may_have_new_classes_if_this_is_stated(tmp_path):
    source = parse_dataset({**DIGITS.to_json(), "allow_new_classes": True})
    assert make(tmp_path, train=9, source=source)[2]["n_train"] == 9
    with pytest.raises(UserError, match="one class only"):
        make(tmp_path, train=1, source=source)
