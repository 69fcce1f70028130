"""The public facts of the data in the path of the noise."""

from __future__ import annotations

import pytest

from ppml.config.datasets import DATASETS
from ppml.stages.seeds import public_data

ABOUT = {"selection": "first", "n_train": 5, "contract": {"redistributable": True}}


@pytest.mark.parametrize("name", DATASETS)
def test_name_identifies_a_data_set_of_the_project(name: str) -> None:
    one, other = ({**ABOUT, "dataset": name, "source": source} for source in "ab")
    assert public_data(one, None) == public_data(other, None) == (name, "first", 5, "")


def test_source_identifies_a_data_set_of_the_configuration() -> None:
    one, other = ({**ABOUT, "dataset": "mine", "source": source} for source in "ab")
    assert public_data(one, None) != public_data(other, None)
