"""The stage subset on tables: duplicates and units on both sides are counted, and constants are of training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ppml.config.datasets import parse_dataset
from ppml.contract import DataContract
from ppml.errors import UserError
from ppml.io.atomic import read_json

from .conftest import run_stage

COLUMNS: dict[str, Any] = {
    "age": {"role": "feature", "low": 0, "high": 100},
    "person": {"role": "unit"},
    "site": {"role": "site", "values": ["graz", "wien"]},
    "ill": {"role": "label", "values": ["no", "yes"]},
}


def subset(
    folder: Path, rows: str, columns: dict[str, Any] | None = None, **keys: Any
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], Any]:
    """Run the stage on a table, and return its three files."""
    path = folder / "table.csv"
    path.write_text(f"{','.join(columns or COLUMNS)}\n{rows}")
    split = keys.pop("split", {"kind": "last", "test": 3})
    source = parse_dataset({"kind": "csv", "files": [str(path)], "columns": columns or COLUMNS, "split": split, **keys})
    spec = {"dataset": "mine", "train": 100, "test": 100, "selection": "first", "evaluate_on": "test"}
    spec |= {"source": source.to_json(), "contract": source.contract.to_json(), "catalogued": False}
    outputs = {name: folder / name for name in ("train", "test", "about")}
    run_stage("subset", spec, {str(path): path}, outputs)
    return load_file(outputs["train"]), load_file(outputs["test"]), read_json(outputs["about"])


ROWS = (
    "10,ann,graz,no\n20,ann,graz,yes\n30,bob,wien,no\n40,ann,wien,yes\n10,bob,graz,no\n55,cid,graz,no\n10,dan,graz,no\n"
)


def test_duplicates_and_units_across_the_split_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test, about = subset(tmp_path, ROWS)
    assert train["inputs"][:, 0] == pytest.approx([-0.8, -0.6, -0.4, -0.2])
    assert test["inputs"][:, 0] == pytest.approx([-0.8, 0.1, -0.8])
    assert (about["duplicates_across_split"], about["units_across_split"], about["largest_unit"]) == (2, 1, 3)
    assert "2 of 3 test examples are also training examples" in capsys.readouterr().out
    assert train["group.site"].tolist() == [0, 0, 1, 1]
    assert "ann" not in str(about) and str(tmp_path) not in str(about)


def test_nothing_is_counted_without_duplicates_and_units(tmp_path: Path) -> None:
    columns = {name: column for name, column in COLUMNS.items() if name in ("age", "ill")}
    _, _, about = subset(tmp_path, "".join(f"{age},{('no', 'yes')[age % 2]}\n" for age in range(9)), columns)
    assert not {"duplicates_across_split", "units_across_split", "largest_unit"} & {*about}


def test_fitted_constants_are_of_the_training_examples(tmp_path: Path) -> None:
    columns = {**COLUMNS, "age": {"role": "feature", "scale": "fitted"}}
    train, _, about = subset(tmp_path, ROWS, columns)
    contract = DataContract.model_validate(about["contract"])
    assert contract.mean == (25.0,) and contract.deviation == pytest.approx((np.std([10, 20, 30, 40]),))
    assert train["inputs"][:, 0].tolist() == [10, 20, 30, 40]


def test_class_that_training_lacks_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    columns = {**COLUMNS, "ill": {"role": "label", "values": ["no", "yes", "new"]}}
    rows = ROWS.replace("cid,graz,no", "cid,graz,new")
    with pytest.raises(UserError, match=r"mine: the test has classes .* 'new' \(1 examples\).*allow_new_classes"):
        subset(tmp_path, rows, columns)
    assert not (tmp_path / "about").exists()
    subset(tmp_path, rows, columns, allow_new_classes=True)


def test_error_of_a_table_begins_with_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        subset(tmp_path, ROWS.replace("30,", "x,"))
    assert str(caught.value).startswith(f"mine: {tmp_path}/table.csv: row 4, column 'age': 'x' is no number")
