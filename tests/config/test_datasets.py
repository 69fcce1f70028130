"""The data sets of the catalogue, the contract, and a data set in the configuration."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from torchvision import datasets

from ppml.config.datasets import DATASETS, parse_dataset
from ppml.config.load import parse_config
from ppml.contract import DataContract
from ppml.data.loading import load_splits

from .small import check_refused, small


def of_torchvision(dataset: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return name, MD5 and addresses of the files that torchvision lists for a data set."""
    if dataset == "cifar10":
        cifar10 = datasets.CIFAR10
        return [(cifar10.filename, cifar10.tgz_md5, (cifar10.url,))]
    if dataset == "emnist":
        return [(datasets.EMNIST.url.rsplit("/", 1)[1], datasets.EMNIST.md5, (datasets.EMNIST.url,))]
    if dataset == "qmnist":
        resources: dict[str, list[tuple[str, str]]] = datasets.QMNIST.resources
        return [(url.rsplit("/", 1)[1], md5, (url,)) for part in ("train", "test") for url, md5 in resources[part]]
    cls = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "kmnist": datasets.KMNIST}[dataset]
    return [(name, md5, tuple(mirror + name for mirror in cls.mirrors)) for name, md5 in cls.resources]


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "kmnist", "qmnist", "emnist", "cifar10"])
def test_files_are_those_of_torchvision_with_checksum_and_address(dataset: str) -> None:
    assert [(file.name, file.md5, file.urls) for file in DATASETS[dataset].files] == of_torchvision(dataset)


@pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)
def test_files_of_catalogue_are_published_with_checksum_and_address(spec: Any) -> None:
    for file in spec.files:
        assert file.name and file.path is None and (file.md5 or file.sha256)
        assert all(url.startswith("http") and file.name in url for url in file.urls)
        # This archive has no public address; a local mirror has it.
        assert file.urls or file.name == "cifar10-jpeg.tar.xz"


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_constants_are_mean_and_deviation_of_public_training_file(dataset, published):
    (train,) = load_splits(DATASETS[dataset], published(dataset), ("train",))
    pixels = train.inputs.astype(np.float64) / 255
    contract = DATASETS[dataset].contract
    assert (*contract.mean, *contract.deviation) == pytest.approx((pixels.mean(), pixels.std()), abs=6e-5)
    assert len(train.labels) == DATASETS[dataset].examples


CATALOGUE = {
    "mnist": ("image", (1, 28, 28), 10),
    "fashion_mnist": ("image", (1, 28, 28), 10),
    "kmnist": ("image", (1, 28, 28), 10),
    "qmnist": ("image", (1, 28, 28), 10),
    "digits": ("image", (1, 28, 28), 10),
    "emnist": ("image", (1, 28, 28), 47),
    "cifar10": ("image", (3, 32, 32), 10),
    "cifar10_jpeg": ("image", (3, 32, 32), 10),
    "pneumoniamnist": ("image", (1, 28, 28), 2),
    "bloodmnist": ("image", (3, 28, 28), 8),
    "dermamnist": ("image", (3, 28, 28), 7),
    "photo_patches": ("image", (3, 16, 16), 2),
    "adult": ("table", (107,), 2),
    "breast_cancer": ("table", (30,), 2),
    "wine": ("table", (13,), 3),
}
"""Name -> kind, shape, and number of classes."""
WITHOUT_LICENCE = {"cifar10", "cifar10_jpeg"}
"""The publisher of these pictures states no licence, so this project may not pass them on; results are public."""


def test_data_sets_of_catalogue_are_as_known() -> None:
    contracts = {name: spec.contract for name, spec in DATASETS.items()}
    found = {name: (contract.kind, contract.shape, len(contract.classes)) for name, contract in contracts.items()}
    assert found == CATALOGUE
    assert {name for name, spec in DATASETS.items() if not spec.redistributable} == WITHOUT_LICENCE
    assert all(contract.public for contract in contracts.values())
    assert {name for name, contract in contracts.items() if not contract.licence} == WITHOUT_LICENCE


@pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)
def test_entry_and_contract_survive_json(spec: Any) -> None:
    assert parse_dataset(spec.to_json()) == spec
    assert DataContract.model_validate(spec.contract.to_json()) == spec.contract
    assert spec.citation and not spec.contract.fitted


def test_number_of_classes_stands_for_names():
    assert DataContract(shape=(1, 2, 2), classes=3).classes == ("0", "1", "2")
    assert parse_dataset({**ENTRY, "classes": 3}).contract.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [28, 28]}, r"shape: got \[28, 28\].*3 axes"),
        ({"kind": "table"}, r"shape: got \[1, 28, 28\].*1 axes"),
        ({"shape": [1, 0, 28]}, "shape.1"),
        ({"classes": 1}, "classes"),
        ({"classes": ["cat", "cat"]}, "classes: .*twice"),
        ({"columns": ["a", "b"]}, "columns: got 2 names"),
        ({"mean": [0.1, 0.2]}, "mean: got 2 numbers"),
        ({"deviation": [0.0]}, "deviation"),
        ({"mean": [float("nan")]}, "mean"),
        ({"groups": "site"}, "groups"),
        ({"groups": {"site": [1, 2]}}, "groups.site.0"),
        ({"metrics": ["accuracy"]}, "metrics"),
        ({"size": 3}, "size"),
    ],
)
def test_invalid_contract_is_refused_with_key_and_value(changes, message):
    with pytest.raises(ValidationError, match=message):
        DataContract.model_validate({"shape": [1, 28, 28], "classes": 10, **changes})


FILES = [{"name": name, "md5": "0" * 32} for name in "abcd"]
ENTRY = {"kind": "idx", "shape": [1, 28, 28], "classes": 10, "files": FILES}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (FILES[:3], "files: got 3"),
        ([*FILES[:3], FILES[0]], "files: a occurs twice"),
        ([*FILES[:3], {"name": "d"}], "md5: d has none, and no sha256"),
        ([*FILES[:3], {"name": "../d", "md5": "0" * 32}], r"files\.3\.name\n"),
        ([*FILES[:3], {"name": "d", "md5": "x"}], r"files\.3\.md5\n"),
        ([*FILES[:3], {"name": "d", "sha256": "0" * 32}], r"files\.3\.sha256\n"),
        ([*FILES[:3], {"name": "d", "path": "d", "md5": "0" * 32}], "name: give either name, .* or path"),
        ([*FILES[:3], {"md5": "0" * 32}], "name: give either name, .* or path"),
        ([*FILES[:3], {"path": "d", "urls": ["http://d"]}], "urls: a file of your own has no address"),
    ],
)
def test_invalid_files_are_refused(files, message):
    assert parse_dataset(ENTRY).file_names == tuple("abcd")
    with pytest.raises(ValidationError, match=message):
        parse_dataset({**ENTRY, "files": files})


@pytest.mark.parametrize(
    ("keys", "public"),
    [
        ({}, False),
        ({"public": None}, False),
        ({"redistributable": True}, True),
        ({"redistributable": True, "public": True}, True),
        ({"public": True}, True),
        ({"public": False}, False),
    ],
)
def test_entry_is_public_if_it_says_so_or_may_be_passed_on(keys, public):
    assert parse_dataset({**ENTRY, **keys}).contract.public is public


def test_data_that_may_be_passed_on_are_not_private():
    with pytest.raises(ValidationError, match=r"public: got false beside redistributable: true; .* leave public out"):
        parse_dataset({**ENTRY, "redistributable": True, "public": False})


def test_own_files_need_no_checksum():
    spec = parse_dataset({**ENTRY, "files": ["a", "b", {"path": "c"}, {"path": "d", "sha256": "0" * 64}]})
    assert spec.file_names == ()
    assert [file.path for file in (*spec.files_of("train"), *spec.files_of("test"))] == ["a", "b", "c", "d"]


def declared(**changes: Any) -> dict[str, Any]:
    """Return a configuration with one data set of its own."""
    entry = {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}
    return small(data={"train": 1000, "define": {"mine": entry}})


@pytest.mark.parametrize(
    ("changes", "key", "pieces"),
    [
        ({"classes": 1}, "data.define.mine: classes: got 1", ["2"]),
        ({"classes": ["a"]}, "data.define.mine: classes: got 1", ["2"]),
        ({"classes": None}, "data.define.mine: classes: got 0", ["2"]),
        ({"classes": ["a", "a"]}, "data.define.mine: classes: got ['a', 'a']", ["once"]),
        ({"shape": None}, "data.define.mine: shape: is missing", ["channels, height and width"]),
        ({"shape": [28, 28]}, "data.define.mine: shape: got [28, 28]", ["channels, height and width"]),
        ({"shape": [2, 28, 28]}, "data.define.mine: shape: got [2, 28, 28]", ["1 or 3 channels"]),
        ({"files": FILES[:2]}, "data.define.mine: files: got 2", ["4", "inputs and labels"]),
        ({"kind": None}, "data.define.mine.kind: is missing", ["idx, npz"]),
        ({"kind": "features"}, "data.define.mine.kind: got 'features'", ["idx, npz"]),
        ({"kind": "digits"}, "data.define.mine.kind: got 'digits'", ["idx, npz"]),
        ({"kind": "id"}, "data.define.mine.kind: got 'id'", ["did you mean 'idx'?"]),
        ({"torchvision": "MNIST"}, "data.define.mine.torchvision: moved", ["name, md5 and urls"]),
        ({"contract": {"classes": 10}}, "data.define.mine.contract: moved", ["write shape, classes"]),
        ({"clases": 10}, "data.define.mine: unknown key 'clases'", ["did you mean 'classes'? allowed: "]),
        ({"split": {"kind": "first"}}, "data.define.mine.split.kind: got 'first'", ["official, last, random"]),
        ({"split": {"kind": "time"}}, "data.define.mine: split.kind: got 'time'", ["stratified"]),
    ],
)
def test_declared_data_set_is_refused_in_one_line(changes: dict[str, Any], key: str, pieces: list[str]) -> None:
    parse_config(declared(), "my.yaml")
    check_refused(declared(**changes), key, *pieces)


@pytest.mark.parametrize("split", [{"kind": "group", "column": "site"}, {"kind": "time"}])
def test_pictures_of_scikit_learn_have_no_split_by_columns(split: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"split\.kind: got .* for the columns of a table"):
        parse_dataset({**DATASETS["digits"].to_json(), "split": split})


def test_key_that_moved_is_named_only_where_it_was() -> None:
    arms = {"a": {"training": {"format": 1}}}
    check_refused(small(arms=arms), "arms.a.training", "unknown key 'format'")
