"""Warnings of ``ppml describe`` about columns that tell the label."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from .described import Described, write_csv

ROWS = 600


def table(rare: int = 200) -> dict[str, list[object]]:
    """Return columns of which one copies the label, one has it with errors, and one does not know it."""
    draws = random.Random(1)
    label = ["attack" if row % ROWS < rare else "normal" for row in range(ROWS)]
    draws.shuffle(label)
    kinds = {"attack": ["scan", "flood"], "normal": ["none"]}
    return {
        "bytes": [draws.randrange(10_000) for _ in label],
        "kind": [draws.choice(kinds[one]) for one in label],
        "alarm": [one if draws.random() < 0.9 else "normal" for one in label],
        "protocol": [draws.choice(["tcp", "udp", "arp"]) for _ in label],
        "label": label,
    }


def warned(tmp_path: Path, columns: dict[str, list[object]]) -> list[str]:
    found = Described(tmp_path, write_csv(tmp_path / "flows.csv", columns), "--label", "label")
    return [line for line in found.warnings if "tells the label" in line]


def test_column_that_tells_the_label_is_named(tmp_path: Path) -> None:
    (line,) = warned(tmp_path, table())
    assert "'kind'" in line and "'label'" in line and "ignored" in line
    assert not any(name in line for name in ("alarm", "protocol", "bytes"))


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.string_view(), pyarrow.dictionary(pyarrow.int8(), pyarrow.string())]
)
def test_texts_of_parquet_are_compared_in_each_form(tmp_path: Path, kind: pyarrow.DataType) -> None:
    columns = {name: pyarrow.array(values) for name, values in table().items()}
    texts = {name: values.cast(kind) if values.type == pyarrow.string() else values for name, values in columns.items()}
    parquet.write_table(pyarrow.table(texts), tmp_path / "flows.parquet")
    found = Described(tmp_path, tmp_path / "flows.parquet", "--label", "label")
    assert ["'kind'" in line for line in found.warnings if "tells the label" in line] == [True]


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_missing_values_tell_nothing_more(tmp_path: Path, share: float) -> None:
    columns, draws = table(), random.Random(2)
    columns["kind"] = ["" if draws.random() < share else value for value in columns["kind"]]
    assert len(warned(tmp_path, columns)) == (share == 0.0)


def test_rare_class_makes_no_column_suspect(tmp_path: Path) -> None:
    assert warned(tmp_path, table(rare=10)) == []
