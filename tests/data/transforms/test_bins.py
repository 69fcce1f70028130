"""The binned numbers of a table."""

from __future__ import annotations

import pytest
import torch

from ppml.config.transforms import Binned
from ppml.contract import DataContract
from ppml.data.transforms.rules import build_transform
from ppml.randomness import Randomness

CONTRACT = DataContract(
    kind="table", shape=(4,), classes=2, columns=("age", "sex: f", "sex: m", "hours"), numbers=("age", "hours")
)


def test_each_number_is_one_of_equal_bins() -> None:
    rule = build_transform(Binned(bins=4), CONTRACT, Randomness(1))
    rows = torch.tensor([[-1.0, 1, 0, 1.0], [-0.51, 0, 1, -0.49], [0.0, 1, 0, 0.49999]])
    found = rule.viewed(rows)
    assert torch.equal(found, rule.copies(rows)) and found.dtype == torch.float32
    assert found.int().tolist() == [
        [1, 0, 0, 0, 1, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 0, 1, 0, 1, 0, 0],
        [0, 0, 1, 0, 1, 0, 0, 0, 1, 0],
    ]


def test_contract_names_the_bins() -> None:
    output = Binned(bins=3).output(CONTRACT)
    assert output.columns == (
        "age: bin 0",
        "age: bin 1",
        "age: bin 2",
        "sex: f",
        "sex: m",
        *(f"hours: bin {n}" for n in range(3)),
    )
    assert (output.kind, output.shape, output.numbers) == ("table", (8,), ())


def test_fitted_scales_are_refused() -> None:
    fitted = DataContract.model_validate({**CONTRACT.model_dump(), "numbers": ("age",), "fitted": ("hours",)})
    with pytest.raises(Exception, match="'hours' has the scale fitted"):
        Binned().output(fitted)


@pytest.mark.parametrize(
    "changes", [{"numbers": ()}, {"kind": "image", "shape": (1, 2, 2), "columns": (), "numbers": ()}]
)
def test_data_without_declared_ranges_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Exception, match="low and high are declared"):
        Binned().output(DataContract.model_validate({**CONTRACT.model_dump(), **changes}))
