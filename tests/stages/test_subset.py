import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from ppml.data.catalogue import CATALOGUE
from ppml.data.loading import load_splits
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.stages import subset

SPEC = {"dataset": "digits", "train": 200, "test": 50, "selection": "first", "evaluate_on": "test"}


def make(folder, raw=(), **changes):
    """Run the stage and return its three files: train and test as arrays, and what it says about them."""
    spec = json.dumps({**SPEC, **changes})
    outputs = {name: folder / name for name in ("train", "test", "about")}
    paths = [part for name, path in outputs.items() for part in (f"--{name}", str(path))]
    subset.main(["--spec", spec, "--raw", *map(str, raw), *paths])
    return load_file(outputs["train"]), load_file(outputs["test"]), read_json(outputs["about"])


def keys(images):
    return [image.tobytes() for image in images]


def test_first_images_train_and_the_papers_test_images_come_first(tmp_path):
    train, test, about = make(tmp_path)
    official_train, official_test = load_splits("digits", [])
    assert np.array_equal(train["images"], official_train.inputs[:200])
    assert np.array_equal(test["images"], official_test.inputs)
    assert {key: about[key] for key in ("n_train", "n_test", "n_test_all", "classes")} == {
        "n_train": 200,
        "n_test": 50,
        "n_test_all": 360,
        "classes": 10,
    }


def test_stratified_test_images_come_first_and_the_rest_follows(tmp_path):
    _, test, about = make(tmp_path, selection="stratified")
    _, official_test = load_splits("digits", [])
    counts, everything = (np.bincount(labels, minlength=10) for labels in (test["labels"][:50], official_test.labels))
    assert np.all(np.abs(counts - 50 * everything / 360) < 1)
    assert sorted(keys(test["images"])) == sorted(keys(official_test.inputs))
    assert about["n_test"] == 50


@pytest.mark.parametrize("selection", ["first", "stratified"])
def test_holdout_is_of_the_train_file_and_never_overlaps_the_training_subset(selection, tmp_path):
    train, test, about = make(tmp_path, evaluate_on="holdout", selection=selection)
    official_train, _ = load_splits("digits", [])
    assert not set(keys(train["images"])) & set(keys(test["images"]))
    assert set(keys(test["images"])) <= set(keys(official_train.inputs))
    assert (len(train["labels"]), about["n_test"], about["n_test_all"]) == (200, 50, 1437 - 200)


def test_holdout_asks_for_no_test_image(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(subset, "load_splits", lambda *given: asked.append(given[2]) or load_splits(*given))
    make(tmp_path, evaluate_on="holdout")
    make(tmp_path)
    assert asked == [("train",), ("train", "test")]


def test_holdout_reads_no_test_image(published, tmp_path):
    raw = [path for path in published("mnist") if "t10k" not in path.name]
    raw += [tmp_path / name for name in CATALOGUE["mnist"].files_of("test")]
    train, test, _ = make(tmp_path, raw, dataset="mnist", evaluate_on="holdout")
    assert (len(train["labels"]), len(test["labels"])) == (200, 10_000)
    with pytest.raises(FileNotFoundError, match="t10k"):
        make(tmp_path, raw, dataset="mnist")


def test_holdout_of_mnist_has_at_most_ten_thousand_images(published, tmp_path):
    train, test, about = make(tmp_path, published("mnist"), dataset="mnist", evaluate_on="holdout", train=100)
    assert train["labels"][:5].tolist() == [5, 0, 4, 1, 9]
    assert (about["n_test"], about["n_test_all"], len(test["labels"])) == (50, 10_000, 10_000)


def test_holdout_without_images_left_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        make(tmp_path, evaluate_on="holdout", train=1437)
    assert str(caught.value) == (
        "data.evaluate_on: holdout needs training images outside the subset, but data.train takes all 1437; lower "
        "data.train"
    )
    assert not list(tmp_path.iterdir())


def test_more_images_than_there_are_take_all(tmp_path):
    _, _, about = make(tmp_path, train=10_000, test=2_000)
    assert (about["n_train"], about["n_test"], about["n_test_all"]) == (1437, 360, 360)


def test_same_settings_give_the_same_bytes_and_other_data_another_digest(tmp_path):
    first, again, other = (
        make(tmp_path / name, train=train)[2] for name, train in (("a", 200), ("b", 200), ("c", 201))
    )
    for name in ("train", "test", "about"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first["digest"] == again["digest"] != other["digest"]
