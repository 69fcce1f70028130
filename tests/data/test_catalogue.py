import re

import numpy as np
import pytest
from pydantic_core import PydanticCustomError

from ppml.data.catalogue import CATALOGUE, DIGITS, dataset_info, require_dataset
from ppml.data.loading import load_splits
from ppml.data.sources import published_files


@pytest.mark.parametrize("dataset", CATALOGUE)
def test_files_are_those_that_torchvision_publishes_with_checksum_and_address(dataset):
    files = published_files(dataset)
    assert [file.name for file in files] == list(CATALOGUE[dataset].files)
    for file in files:
        assert re.fullmatch(r"[0-9a-f]{32}", file.md5)
        assert file.urls and all(url.startswith("http") and url.endswith(f"/{file.name}") for url in file.urls)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_constants_are_those_of_the_whole_public_train_file(dataset, published):
    (train,) = load_splits(dataset, published(dataset), ("train",))
    pixels = train.images.astype(np.float64) / 255
    info = dataset_info(dataset)
    assert (info.mean, info.deviation) == pytest.approx((pixels.mean(), pixels.std()), abs=6e-5)


@pytest.mark.parametrize("name", [*CATALOGUE, DIGITS])
def test_known_data_set_is_accepted(name):
    require_dataset(name, "data.dataset")
    assert 0 < dataset_info(name).mean < 1


def test_unknown_data_set_is_refused_with_key_and_names():
    with pytest.raises(PydanticCustomError) as caught:
        require_dataset("cifar10", "data.dataset")
    assert caught.value.message() == (
        "data.dataset: unknown data set 'cifar10'; allowed: mnist, fashion_mnist, kmnist, qmnist, digits"
    )
