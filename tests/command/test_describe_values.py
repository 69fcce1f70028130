"""The values that decide the role of a column for ``ppml describe``: codes, times, numbers, gaps."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.command.described import Described, people, write_csv


def test_a_code_keeps_its_zeros(tmp_path: Path) -> None:
    columns = {
        "zip": [f"{row % 90:05}" for row in range(300)],
        "code": ["01", "02", "13"] * 100,
        "x": list(range(100)) * 3,
        "y": [0, 1] * 150,
    }
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert found.roles()["zip"] == ("quasi_identifier",)
    assert tuple(found.columns()["code"].values) == ("01", "02", "13")


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%y", "%m/%d/%Y %H:%M", "%d-%b-%Y"]
)
def test_times(form: str, tmp_path: Path) -> None:
    day = datetime.datetime(2021, 2, 3, 4, 5, 6)
    days = [day + datetime.timedelta(days=row % 97, hours=row % 7) for row in range(300)]
    columns = {"seen": [one.strftime(form) for one in days], "x": list(range(100)) * 3, "y": [0, 1] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    _, train = found.read()
    assert found.roles()["seen"] == ("time",)
    assert train.times is not None
    epoch = datetime.datetime(1970, 1, 1)
    exact = {(datetime.datetime.strptime(text, form) - epoch).total_seconds() for text in columns["seen"]}
    assert {*train.times.tolist()} <= exact


def test_an_impossible_day_is_no_time(tmp_path: Path) -> None:
    columns = {"seen": ["01.02.2021", "31.02.2021"] * 150, "x": list(range(100)) * 3, "y": [0, 1] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert found.roles()["seen"] == ("category",)


def test_one_time_and_no_time_with_many_gaps(tmp_path: Path) -> None:
    columns = {
        "sparse": ["2021-01-01", "", ""] * 100,
        "epoch_time": [1_600_000_000 + 60 * (row // 2) for row in range(300)],
        "date": ["2021-01-01", "2021-01-02"] * 150,
        "x": list(range(100)) * 3,
        "y": [0, 1] * 150,
    }
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert [role for role, *_ in found.roles().values()] == ["ignored", "time", "ignored", "feature", "label"]


def test_texts_of_missing_numbers_are_values_elsewhere(tmp_path: Path) -> None:
    columns = {"sign": ["+", "-", "-"] * 100, "x": ["-", *range(1, 100)] * 3, "y": ["+", "-"] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert found.columns()["sign"].values.keys() == found.columns()["y"].values.keys() == {"+", "-"}
    assert isinstance(found.columns()["x"].missing, float)


def test_a_point_beside_a_decimal_comma_is_no_number(tmp_path: Path) -> None:
    columns = {
        "x": ["1,5", "2,5", "3,75"] * 100,
        "odd": ["1.234", "5", "2.345"] * 100,
        "price": ["1.234,5", "2,5", "7.001,25"] * 100,
        "y": [0, 1] * 150,
    }
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns, delimiter=";"))
    found.read()
    assert [role for role, *_ in found.roles().values()] == ["feature", "category", "category", "label"]


def test_rare_values_are_no_inputs(tmp_path: Path) -> None:
    columns = people() | {"rare": [0] * 299 + [1], "gap": ["x"] * 298 + ["", ""], "ill": people()["ill"]}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns), "--label", "ill")
    found.read()
    assert found.roles()["rare"] == found.roles()["gap"] == ("ignored",)


def test_numbers_beyond_float32_are_no_inputs(tmp_path: Path) -> None:
    columns = people() | {"huge": ["1e300", "2e300", "3"] * 100, "endless": ["inf", "1", "2"] * 100}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns), "--label", "ill")
    found.read()
    assert found.roles()["huge"] == ("ignored",)
    assert "feature" not in found.roles()["endless"]


def test_small_numbers_have_a_point(tmp_path: Path) -> None:
    columns = {"x": [f"{row}e-9" for row in range(1, 151)] * 2, "z": [-1e20, 1e20, 0] * 100, "y": [0, 1] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert (found.columns()["x"].low, found.columns()["x"].high) == (1e-9, 150e-9)
    assert (found.columns()["z"].low, found.columns()["z"].high) == (-1e20, 1e20)


def test_parquet_of_every_type(tmp_path: Path) -> None:
    from decimal import Decimal

    rows = 300
    table = pyarrow.table(
        {
            "whole": pyarrow.array([row % 60 for row in range(rows)], pyarrow.int16()),
            "half": pyarrow.array([row / 3 for row in range(rows)], pyarrow.float32()),
            "gaps": pyarrow.array([None if row % 3 else row / 8 for row in range(rows)]),
            "nan": pyarrow.array([float("nan") if row % 3 else row / 8 for row in range(rows)]),
            "flag": pyarrow.array([row % 2 == 0 for row in range(rows)]),
            "word": pyarrow.array(["a", "b", None] * 100).dictionary_encode(),
            "price": pyarrow.array([Decimal(row % 70) / 4 for row in range(rows)], pyarrow.decimal128(9, 2)),
            "day": pyarrow.array([datetime.date(2021, 1, 1 + row % 28) for row in range(rows)]),
            "list": pyarrow.array([[1, 2]] * rows),
            "struct": pyarrow.array([{"secret_field": 1}] * rows),
            "empty": pyarrow.nulls(rows),
            "bytes": pyarrow.array([b"\xff\xfe"] * rows),
            "length": pyarrow.array([datetime.timedelta(seconds=row % 9) for row in range(rows)]),
            " target ": pyarrow.array([row % 2 for row in range(rows)], pyarrow.uint8()),
        }
    )
    parquet.write_table(table, tmp_path / "a.bin")
    found = Described(tmp_path, tmp_path / "a.bin")
    found.read()
    roles = {name: role[0] for name, role in found.roles().items()}
    assert {name: roles[name] for name in ("list", "struct", "empty", "bytes", "length")} == dict.fromkeys(
        ("list", "struct", "empty", "bytes", "length"), "ignored"
    )
    features = ["whole", "half", "gaps", "nan", "price"]
    assert [name for name, role in roles.items() if role == "feature"] == features
    assert (roles["flag"], roles["word"], roles["day"], roles["target"]) == ("category", "category", "time", "label")
    assert found.columns()["word"].missing == "category"
    assert "secret_field" not in found.text


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Vienna"])
def test_times_of_parquet(unit: str, zone: str | None, tmp_path: Path) -> None:
    seen = pyarrow.array([1_600_000_000 + row % 90 for row in range(300)]).cast(pyarrow.timestamp("s"))
    table = pyarrow.table(
        {"seen": seen.cast(pyarrow.timestamp(unit, zone)), "x": [row % 77 for row in range(300)], "y": [0, 1] * 150}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    found = Described(tmp_path, tmp_path / "a.parquet")
    _, train = found.read()
    assert found.roles()["seen"] == ("time",)
    assert train.times is not None and train.times.min() >= 1_600_000_000
