"""The known data sets, and the contract of a data set in the configuration."""

import re
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ppml.config.datasets import DATASETS, DatasetSpec
from ppml.config.load import parse_config
from ppml.contract import DataContract
from ppml.data.loading import load_splits
from ppml.data.sources import published_files

from .small import check_refused, small

PUBLISHED = [name for name, spec in DATASETS.items() if spec.torchvision]


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_files_are_those_of_torchvision_with_checksum_and_address(dataset):
    files = published_files(DATASETS[dataset])
    assert [file.name for file in files] == list(DATASETS[dataset].file_names)
    for file in files:
        assert re.fullmatch(r"[0-9a-f]{32}", file.md5)
        assert file.urls and all(url.startswith("http") and url.endswith(f"/{file.name}") for url in file.urls)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_constants_are_mean_and_deviation_of_public_training_file(dataset, published):
    (train,) = load_splits(DATASETS[dataset], published(dataset), ("train",))
    pixels = train.inputs.astype(np.float64) / 255
    contract = DATASETS[dataset].contract
    assert (*contract.mean, *contract.deviation) == pytest.approx((pixels.mean(), pixels.std()), abs=6e-5)
    assert len(train.labels) == DATASETS[dataset].examples


@pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)
def test_known_data_sets_are_redistributable_images_of_ten_classes(spec):
    contract = spec.contract
    assert (contract.kind, contract.shape, len(contract.classes)) == ("image", (1, 28, 28), 10)
    assert contract.redistributable and contract.licence
    assert DataContract.model_validate(contract.to_json()) == contract


def test_number_of_classes_stands_for_names():
    assert DataContract(shape=(1, 2, 2), classes=3).classes == ("0", "1", "2")


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
        ({"metrics": []}, "metrics"),
        ({"size": 3}, "size"),
    ],
)
def test_invalid_contract_is_refused_with_key_and_value(changes, message):
    with pytest.raises(ValidationError, match=message):
        DataContract.model_validate({"shape": [1, 28, 28], "classes": 10, **changes})


FILES = [{"name": name, "md5": "0" * 32} for name in "abcd"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (FILES[:3], "files: got 3"),
        ([*FILES[:3], FILES[0]], "files: a name occurs twice"),
        ([*FILES[:3], {"name": "d"}], r"files\.3\.md5"),
        ([*FILES[:3], {"name": "../d", "md5": "0" * 32}], "name"),
        ([*FILES[:3], {"name": "d", "md5": "x"}], "md5"),
    ],
)
def test_invalid_files_are_refused(files, message):
    contract = {"shape": [1, 28, 28], "classes": 10}
    assert DatasetSpec.model_validate({"files": FILES, "contract": contract}).file_names == tuple("abcd")
    with pytest.raises(ValidationError, match=message):
        DatasetSpec.model_validate({"files": files, "contract": contract})


def declared(**entry: Any) -> dict[str, Any]:
    """Return a configuration with one data set of its own."""
    contract = {"shape": [1, 28, 28], "classes": 10, **entry.pop("contract", {})}
    return small(datasets={"mine": {"files": FILES, "contract": contract, **entry}})


@pytest.mark.parametrize(
    ("entry", "key", "pieces"),
    [
        ({"contract": {"classes": 1}}, "datasets.mine.contract.classes", ["2"]),
        ({"contract": {"classes": ["a"]}}, "datasets.mine.contract.classes", ["2"]),
        ({"contract": {"kind": "features", "shape": [9]}}, "datasets.mine", ["features", "image, table"]),
        ({"format": "digits", "files": []}, "datasets.mine.format", ["digits", "idx"]),
        ({"torchvision": "MNIST"}, "datasets.mine.torchvision", ["MNIST", "MD5"]),
    ],
)
def test_declared_data_set_is_refused_in_one_line(entry: dict[str, Any], key: str, pieces: list[str]) -> None:
    parse_config(declared(), "my.yaml")
    check_refused(declared(**entry), key, *pieces)
