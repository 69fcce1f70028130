"""The columns of a table in the configuration: errors before any file is opened."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ppml.config.columns import Column, TableFields
from ppml.config.datasets import parse_dataset

from .small import check_refused, small

LABEL = {"role": "label", "values": ["no", "yes"]}
FEATURE = {"role": "feature", "low": 0, "high": 1}
CITY = {"role": "category", "values": ["Graz", "Wien"]}
QUASI = {"role": ["feature", "quasi_identifier"], "low": 0, "high": 1}


SKIPPED = {"path": "a", "skip_rows": 1}


def table(**columns: Any) -> dict[str, Any]:
    """Return a configuration with one table of its own; other keys of the table follow ``keys``."""
    keys = columns.pop("keys", {})
    entry = {"kind": "csv", "files": ["table.csv"], "split": {"kind": "random"}, "columns": columns, **keys}
    return small(data={"train": 1000, "define": {"mine": entry}})


def column(content: Any) -> Column:
    return Column.model_validate(content)


@pytest.mark.parametrize(
    ("content", "key", "pieces"),
    [
        ({"role": "feature"}, "low: scale 'linear' needs it", ["public fact"]),
        ({"role": "feature", "low": 0}, "high: scale 'linear' needs it", []),
        ({"role": "feature", "low": 1, "high": 1}, "high: got 1.0, not above low 1.0", []),
        ({"role": "feature", "low": 2, "high": 1, "scale": "log"}, "high: got 1.0", []),
        ({"role": "feature", "low": -1.7e308, "high": 1.7e308}, "high: got 1.7e+308", ["too far"]),
        ({**FEATURE, "scale": "square"}, "got 'square'", ["linear", "fitted"]),
        ({**FEATURE, "low": "0"}, "got '0'", ["without quotes"]),
        ({**FEATURE, "low": float("nan")}, "got nan", []),
        ({**FEATURE, "missing": "category"}, "missing: got 'category'", ["role category"]),
        ({**FEATURE, "missing": "mean"}, "got 'mean'", ["refuse, drop_row, category, or a number"]),
        ({**FEATURE, "missing": True}, "got True", ["refuse"]),
        ({**FEATURE, "missing": float("inf")}, "got inf", []),
        ({**FEATURE, "format": "%Y"}, "format: only a column with role time", []),
        ({**FEATURE, "drop": ["x"]}, "drop: only a column with role label", []),
        ({**FEATURE, "values": ["x"]}, "values: role 'feature' has no closed list", []),
        ({**FEATURE, "other": "x"}, "other: got 'x'", []),
        ({"role": ["feature", "category"], "values": ["x"]}, "role: got feature and category", []),
        ({"role": ["feature", "feature"]}, "role: got ['feature', 'feature']", ["twice"]),
        ({"role": ["feature", "ignored"]}, "role: got ['feature', 'ignored']", ["no other role"]),
        ({"role": []}, "got []", []),
        ({"role": "features"}, "got 'features'", ["did you mean 'feature'"]),
        ({"role": ["feature", "identifier"], "low": 0, "high": 1}, "role: got ['feature', 'identifier']", ["by heart"]),
        ({"role": ["identifier", "category"], "values": ["x"]}, "role: got ['identifier', 'category']", []),
        ({**LABEL, "role": ["label", "feature"]}, "role: got label and feature", ["the answer"]),
        ({**LABEL, "role": ["category", "label"]}, "role: got label and category", ["the answer"]),
        ({**LABEL, "role": ["label", "sensitive"]}, "role: got label and sensitive", ["forbids"]),
        ({**LABEL, "role": ["identifier", "label"]}, "role: got label and identifier", []),
        ({"role": "label", "values": ["yes"]}, "values: got 1 classes", ["2"]),
        ({"role": "label"}, "values: got 0 classes", ["2"]),
        ({**LABEL, "drop": ["no"]}, "drop: got 'no'", ["values has as well"]),
        ({**CITY, "values": []}, "values: role 'category' needs its closed list", []),
        ({**CITY, "values": ["a", "a"]}, "got ['a', 'a']", ["twice"]),
        ({**CITY, "values": ["a", " a"]}, "got ['a', 'a']", ["twice"]),
        ({**CITY, "values": [1, "1"]}, "got ['1', '1']", ["twice"]),
        ({**CITY, "values": {"x": "a", "y": ["b", "a"]}}, "values: the text 'a' stands for two", []),
        ({**CITY, "values": [True, "x"]}, "got True", ["in quotes"]),
        ({**CITY, "values": [None]}, "got None", ["in quotes"]),
        ({**CITY, "values": [["a"]]}, "got ['a']", ["in quotes"]),
        ({**CITY, "values": ["a", "missing"], "missing": "category"}, "values: 'missing' is the value", []),
        ({**CITY, "other": "Linz"}, "other: got 'Linz'", ["Graz, Wien"]),
        ({**CITY, "missing": 3}, "missing: got 3.0", ["missing feature"]),
        ({**CITY, "values": {"x": "a", " x": "b"}}, "got ['x', ' x']", ["twice"]),
        ({**FEATURE, "role": ["feature", "time"], "missing": 3}, "missing: got 3.0 for role time", ["drop_row"]),
        ({**CITY, "role": ["category", "unit"], "missing": "category"}, "missing: got 'category' for role unit", []),
        ({**CITY, "low": 3}, "low: only a column with role feature", []),
        ({**CITY, "scale": "fitted"}, "scale: only a column with role feature", []),
        ({"role": "site"}, "values: role 'site' needs its closed list", []),
        ({"role": "group"}, "values: role 'group' needs its closed list", []),
        ({"role": "time", "format": ""}, "format: got ''", ["%d.%m.%Y"]),
        ({"role": "time", "format": "Y-m-d"}, "format: got 'Y-m-d'", ["%d.%m.%Y"]),
        ({"role": "time", "format": "%Q"}, "format: got '%Q'", ["'Q' is a bad directive"]),
        ({"role": "time", "format": "%d%d"}, "format: got '%d%d'", []),
        ({"role": "time", "kind": "x"}, "unknown key 'kind'", []),
    ],
)  # fmt: skip
def test_wrong_column_is_one_line_with_its_key(content: Any, key: str, pieces: list[str]) -> None:
    with pytest.raises(ValidationError):
        column(content)
    # The key of the column, then perhaps one inside it.
    config = table(**{"x": content, "a": FEATURE, "ill": LABEL})
    check_refused(config, "data.define.mine.columns.x", key, *pieces)


@pytest.mark.parametrize(
    ("columns", "pieces"),
    [
        ({"a": FEATURE}, ["0 have the role label (none)"]),
        ({"a": FEATURE, "x": LABEL, "y": LABEL}, ["2 have the role label (x, y)"]),
        ({"a": FEATURE, "x": {"role": "time"}, "y": {"role": "time"}, "ill": LABEL}, ["x, y have the role time"]),
        ({"a": FEATURE, "x": {"role": "unit"}, "y": {"role": "unit"}, "ill": LABEL}, ["x, y have the role unit"]),
        ({"x": {"role": "sensitive"}, "ill": LABEL}, ["none has the role feature or category"]),
        ({" a": FEATURE, "ill": LABEL}, ["' a'", "spaces"]),
        ({"age": QUASI, "ill": LABEL}, ["columns.age.role", "quasi_identifier and feature", "state quasi_identifiers"]),
        ({"keys": {"columns": {}}}, ["columns: is missing", "ppml describe"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"files": []}}, ["files: is missing"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"files": ["a", "a"]}}, ["files: a occurs twice"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"delimiter": "\u00a7"}}, ["delimiter: got '\u00a7'", "ASCII"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"delimiter": '"'}}, ["delimiter: got '\"'"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"delimiter": "\n"}}, ["delimiter: got '\\n'"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"delimiter": ",,"}}, ["delimiter", "',,'"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"encoding": "utf8mb4"}}, ["encoding: got 'utf8mb4'", "latin-1"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"encoding": "hex"}}, ["encoding: got 'hex'"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"missing_texts": [True]}}, ["got True", "in quotes"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"kind": "parquet", "files": [SKIPPED]}}, ["skip_rows"]),
        ({"a": FEATURE, "ill": LABEL, "keys": {"kind": "parquet", "delimiter": ";"}}, ["unknown key 'delimiter'"]),
    ],
)  # fmt: skip
def test_wrong_table_is_one_line(columns: dict[str, Any], pieces: list[str]) -> None:
    check_refused(table(**columns), "data.define.mine", *pieces)


def test_quasi_identifier_may_be_an_input_if_it_is_stated() -> None:
    entry = table(age=QUASI, ill=LABEL)["data"]["define"]["mine"]
    spec = parse_dataset({**entry, "quasi_identifiers_as_inputs": True})
    assert spec.contract.columns == ("age",)


@pytest.mark.parametrize(
    ("values", "names", "texts"),
    [
        (["a", "b"], ("a", "b"), [("a",), ("b",)]),
        ([1, 2.5, "1.0"], ("1", "2.5", "1.0"), [("1",), ("2.5",), ("1.0",)]),
        ({"x": "a", "y": ["b", 3]}, ("x", "y"), [("a",), ("b", "3")]),
        ([" a ", "b"], ("a", "b"), [("a",), ("b",)]),
    ],
)
def test_closed_list_has_names_and_texts(values: Any, names: tuple[str, ...], texts: list[tuple[str, ...]]) -> None:
    found = column({"role": "category", "values": values})
    assert found.names == names and [*found.values.values()] == texts and found.width == len(names)


def test_contract_lists_inputs_in_the_order_of_the_columns() -> None:
    columns = {
        "age": FEATURE,
        "id": {"role": "identifier"},
        "city": {**CITY, "role": ["category", "site"], "missing": "category"},
        "pay": {"role": ["feature", "sensitive"], "scale": "fitted"},
        "raw": {"role": "feature", "scale": "none"},
        "ward": {"role": "group", "values": ["a", "b"]},
        "ill": LABEL,
    }
    spec = parse_dataset({"kind": "csv", "files": ["a"], "columns": columns, "split": {"kind": "random"}})
    contract = spec.contract
    assert contract.columns == ("age", "city: Graz", "city: Wien", "city: missing", "pay", "raw")
    assert (contract.shape, contract.classes, contract.numbers) == ((6,), ("no", "yes"), ("age",))
    assert contract.groups == {"city": ("Graz", "Wien", "missing"), "ward": ("a", "b")} and contract.fitted == ("pay",)
    assert isinstance(spec, TableFields)
    assert [name for name, one in spec.columns.items() if one.is_read] == ["age", "city", "pay", "raw", "ward", "ill"]


@pytest.mark.parametrize(
    "content",
    [
        {**FEATURE, "missing": 3},
        {**FEATURE, "scale": "log", "missing": "drop_row"},
        {**CITY, "missing": "category", "other": "Graz"},
        {**LABEL, "drop": [5, "x"]},
        {"role": ["time", "feature"], "scale": "none", "format": "%d.%m.%Y"},
        {"role": ["unit", "identifier"]},
    ],
)
def test_column_survives_json(content: Any) -> None:
    once = column(content)
    assert column(once.to_json()) == once
