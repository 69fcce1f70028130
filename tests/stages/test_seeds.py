"""The public facts of the data in the path of the noise."""

from __future__ import annotations

import pytest

from ppml.config.datasets import DATASETS
from ppml.stages.seeds import public_data

ABOUT = {"selection": "first", "n_train": 5, "contract": {"public": True}}


@pytest.mark.parametrize("name", DATASETS)
def test_name_identifies_a_data_set_of_the_catalogue(name: str) -> None:
    one, other = ({**ABOUT, "dataset": name, "identity": None, "source": source} for source in "ab")
    assert public_data(one, None) == public_data(other, None) == (name, "first", 5, "")


def test_digest_identifies_a_data_set_of_the_configuration() -> None:
    one, other = ({**ABOUT, "dataset": "mine", "identity": identity, "source": "c"} for identity in "ab")
    assert public_data(one, None) == ("mine", "first", 5, "", "a") != public_data(other, None)
