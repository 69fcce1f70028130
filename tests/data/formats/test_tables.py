"""Tables that are read: the numbers of each column in every form of a file."""

from __future__ import annotations

import codecs
import datetime
import decimal
import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
from pyarrow import parquet

from ppml.config.columns import Column, TableFields
from ppml.config.datasets import DATASETS, parse_dataset
from ppml.data.formats.table_encoding import fitted_constants, scale_numbers
from ppml.data.loading import load_splits

from .tables import COLUMNS, HEADER, ROWS, read, read_text

LABEL = COLUMNS["ill"]
EXPECTED = [[-0.6, 1, 0], [0.4, 0, 1]]
"""The inputs of ROWS."""


def single(path: Path, cells: list[str], column: dict[str, Any], name: str = "x", **keys: Any) -> Any:
    """Return the examples of a table with one column and a label."""
    columns = {name: column, "other": {"role": "feature", "scale": "none"}, "ill": LABEL}
    lines = [f"{name},other,ill", *(f"{cell},{place},no" for place, cell in enumerate(cells))]
    return read_text(path, "\n".join(lines), columns, **keys)


# --- a real table ---------------------------------------------------------------------------------------------------

ADULT = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
)
"""The columns of the files, as adult.names lists them."""
RANGES = {"age": (17, 90), "education-num": (1, 16), "hours-per-week": (1, 99)}
LOGARITHMS = {"capital-gain": 99999, "capital-loss": 4356}


@pytest.mark.parametrize(("part", "name", "count"), [("train", "adult.data", 32561), ("test", "adult.test", 16281)])
def test_adult_is_as_pandas_reads_it(
    part: str, name: str, count: int, published: Callable[[str], dict[str, Path]]
) -> None:
    files = published("adult")
    spec = DATASETS["adult"]
    (examples,) = load_splits(spec, files, (part,))
    rows = pandas.read_csv(
        files[name], names=list(ADULT), header=None, skipinitialspace=True, comment="|", keep_default_na=False
    )
    assert len(rows) == len(examples) == count
    assert np.array_equal(examples.labels, rows["income"].str.startswith(">"))
    for column, codes in examples.groups.items():
        names = np.array(spec.contract.groups[column])
        assert np.array_equal(names[codes], rows[column].replace("?", "missing"))
    for row in np.random.default_rng(0).choice(count, 200, replace=False):
        cells = rows.iloc[row]
        expected = []
        for entry in spec.contract.columns:
            column, _, value = entry.partition(": ")
            if value:
                expected.append(float(cells[column] == ("?" if value == "missing" else value)))
            elif column in LOGARITHMS:
                expected.append(2 * math.log1p(cells[column]) / math.log1p(LOGARITHMS[column]) - 1)
            else:
                low, high = RANGES[column]
                expected.append(2 * (cells[column] - low) / (high - low) - 1)
        assert examples.inputs[row] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dataset", ["breast_cancer", "wine"])
def test_scikit_learn_table_is_in_its_range(dataset: str) -> None:
    train, test = load_splits(DATASETS[dataset], {})
    inputs = np.concatenate([train.inputs, test.inputs])
    # The ranges are those of the data, which the descriptions print rounded.
    assert inputs.min(axis=0) == pytest.approx(-1, abs=0.02) and inputs.max(axis=0) == pytest.approx(1, abs=0.02)


# --- the file -------------------------------------------------------------------------------------------------------

TEXT = HEADER + ROWS


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (TEXT, {}),
        (TEXT.rstrip(), {}),
        (TEXT.replace("\n", "\r\n"), {}),
        (TEXT.replace("\n", "\r"), {}),
        ("\n\n" + TEXT.replace("\n", "\n\n"), {}),
        (codecs.BOM_UTF8 + TEXT.encode(), {}),
        (codecs.BOM_UTF8 + TEXT.encode(), {"encoding": "utf-8-sig"}),
        (TEXT.encode("utf-16"), {"encoding": "utf-16"}),
        (TEXT.encode("utf-16-be"), {"encoding": "utf-16-be"}),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), {"encoding": "utf-16-le"}),
        (gzip.compress(TEXT.encode(), mtime=0), {}),
        (gzip.compress(TEXT[:30].encode(), mtime=0) + gzip.compress(TEXT[30:].encode(), mtime=0), {}),
        (gzip.compress(TEXT.encode("utf-16"), mtime=0), {"encoding": "utf-16"}),
        (TEXT.replace("Graz,a", 'Graz,"a,\n""b"";"'), {}),
        ("\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in TEXT.split()), {}),
        (TEXT.replace(",", " ,\t").replace("\t", "  "), {}),
        (TEXT.replace(",", ";"), {"delimiter": ";"}),
        (TEXT.replace(",", " "), {"delimiter": " "}),
        (TEXT.replace(",", "\t"), {"delimiter": "\t"}),
        (TEXT.replace("20", '"20,0"').replace("70", '"7,0e1"'), {"decimal": ","}),
        (TEXT.replace(",", "|").replace("20", "20,0").replace("70", "7,0e1"), {"delimiter": "|", "decimal": ","}),
        (f'one\n"two\n{TEXT}', {"skip_rows": 2}),
        (f"\r\n\r{TEXT}", {"skip_rows": 2}),
        (ROWS, {"header": False}),
        (TEXT.replace("20,", "+20.,").replace("70,", "7e1,"), {}),
        (TEXT.replace("Graz,a", 'Graz,5" disk').replace("Wien,b", 'Wien,6" disk'), {}),
        (TEXT.replace(",a", ",\u2028\x85").replace(",b", ",\x0b\x1c"), {}),
        (TEXT.replace("a,no", "\xe4,no").encode("latin-1"), {"encoding": "latin-1"}),
        (TEXT.replace("a,no", "\x85,no").encode("latin-1"), {"encoding": "latin-1"}),
        ("ill,note,age,city\nno,a,20,Graz\nyes,b,70,Wien\n", {}),
        ("ill,age,city\nno,20,Graz\nyes,70,Wien\n", {}),
    ],
)
def test_content_is_the_same_in_every_form(content: str | bytes, keys: dict[str, Any], tmp_path: Path) -> None:
    for name in ("table.csv", "table.txt.gz"):
        found = read_text(tmp_path / name, content, **keys)
        assert found.inputs == pytest.approx(np.array(EXPECTED)) and found.labels.tolist() == [0, 1]
        assert found.inputs.dtype == np.float32 and not found.groups and found.times is None and found.units is None


def test_blocks_of_the_reader_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = HEADER + '20,"Graz","\u00e4 ""b"",\r\nc",no\r\n70,Wien,\U0001f600,"yes"\r\n' * 3
    whole = read_text(tmp_path / "table.csv", content)
    for block in range(1, 12):
        monkeypatch.setattr("ppml.data.formats.table_text.BLOCK", block)
        assert np.array_equal(read(tmp_path / "table.csv").inputs, whole.inputs)
    assert len(whole) == 6


@pytest.mark.parametrize(
    "name", ["a b", "a'b", 'a"b', "a,b", "\u00e4\u4e2d", "a: b", "a.b", "1", "", "a" * 1000, "a\nb", "%s{0}", "../a"]
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_column_may_have_any_name(name: str, kind: str, tmp_path: Path) -> None:
    columns = {name: COLUMNS["age"], "ill": LABEL}
    path = tmp_path / f"table.{kind}"
    whole = pandas.DataFrame({name: [20, 70], "ill": ["no", "yes"]})
    whole.to_csv(path, index=False) if kind == "csv" else whole.to_parquet(path)
    assert read(path, columns).inputs[:, 0] == pytest.approx([-0.6, 0.4])


def test_columns_with_common_start_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"a.b": [1, 2], "a": [3, 4], " ill ": ["no", "yes"]}), path)
    columns = {"a": {"role": "feature", "scale": "none"}, "a.b": {"role": "feature", "scale": "none"}, "ill": LABEL}
    assert read(path, columns).inputs.tolist() == [[3, 1], [4, 2]]


@pytest.mark.parametrize(("kind", "count"), [("csv", 10_000), ("parquet", 1000)])
def test_thousands_of_columns_are_read(kind: str, count: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).random((3, count)).round(6)
    names = [f"column {place}" for place in range(count)]
    path = tmp_path / f"table.{kind}"
    whole = pandas.DataFrame(numbers, columns=names).assign(ill=["no", "yes", "no"])
    whole.to_csv(path, index=False) if kind == "csv" else whole.to_parquet(path)
    found = read(path, {**{name: {"role": "feature", "low": 0, "high": 1} for name in names}, "ill": LABEL})
    assert found.inputs == pytest.approx(numbers * 2 - 1, abs=1e-6)


def test_files_are_read_one_after_another(tmp_path: Path) -> None:
    columns = {"age": COLUMNS["age"], "person": {"role": "unit"}, "ill": LABEL}
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    paths[0].write_text("age,person,ill\n10,ann,no\n20,bob,yes\n30,ann,no\n")
    paths[1].write_text("person,age,ill\nbob,40,no\ncid,50,yes\nann,60,yes\n")
    spec = parse_dataset(
        {
            "kind": "csv",
            "files": [str(path) for path in paths],
            "columns": columns,
            "split": {"kind": "last", "test": 1},
        }
    )
    train, test = load_splits(spec, {str(path): path for path in paths})
    assert [*train.inputs[:, 0], *test.inputs[:, 0]] == pytest.approx([-0.8, -0.6, -0.4, -0.2, 0, 0.2])
    assert train.units is not None and test.units is not None
    ann, bob, again, other, cid = train.units.tolist()
    assert ann == again == test.units[0] and bob == other and len({ann, bob, cid}) == 3


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "cells", "expected"),
    [
        ({"low": 10, "high": 20}, ["10", "15", "20", "5", "25", "1e30"], [-1, 0, 1, -1, 1, 1]),
        ({"low": -1, "high": 1}, ["-1", "-0", "0.5"], [-1, 0, 0.5]),
        ({"low": 0, "high": 99, "scale": "log"}, ["0", "9", "99", "-5", "1000"], [-1, 0, 1, -1, 1]),
        ({"low": -10, "high": 89, "scale": "log"}, ["-10", "-1", "89"], [-1, 0, 1]),
        ({"scale": "none"}, ["3.5", "-1e30", "1e-30", "16777217"], [3.5, -1e30, 1e-30, 16777216]),
        ({"scale": "fitted"}, ["3.5", "-2"], [3.5, -2]),
        ({"scale": "none", "missing": -1}, ["3", "", "NA", "nan"], [3, -1, -1, -1]),
        ({"scale": "none", "missing": "drop_row"}, ["3", "", "4"], [3, 4]),
        ({"low": 0, "high": 10, "missing": 5}, ["10", "null"], [1, 0]),
    ],
)
def test_number_becomes_input_by_its_declared_scale(
    column: dict[str, Any], cells: list[str], expected: list[float], tmp_path: Path
) -> None:
    found = single(tmp_path / "table.csv", cells, {"role": "feature", **column})
    assert found.inputs[:, 0] == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_fitted_constants_are_those_of_training_rows_alone(tmp_path: Path) -> None:
    spec = parse_dataset(
        {
            "kind": "csv",
            "files": [str(tmp_path / "table.csv")],
            "columns": {"a": {"role": "feature", "scale": "fitted"}, "city": COLUMNS["city"], "ill": LABEL},
            "split": {"kind": "last", "test": 1},
        }
    )
    (tmp_path / "table.csv").write_text("a,city,ill\n1,Graz,no\n5,Wien,yes\n1000,Wien,yes\n")
    train, _ = load_splits(spec, {str(tmp_path / "table.csv"): tmp_path / "table.csv"})
    assert isinstance(spec, TableFields)
    assert fitted_constants(spec, train.inputs) == ((3.0, 0.0, 0.0), (2.0, 1.0, 1.0))
    assert spec.contract.fitted == ("a",)


def test_scale_of_extreme_range_is_finite() -> None:
    column = Column.model_validate({"role": "feature", "low": -8e307, "high": 8e307})
    assert scale_numbers(column, np.array([-1e308, 0, 1e308])).tolist() == [-1, 0, 1]


# --- closed lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "cells", "expected"),
    [
        ({"values": ["a", "b"]}, ["b", " a "], [[0, 1], [1, 0]]),
        ({"values": {"x": ["a", "A"], "y": "b"}}, ["b", "A", "a"], [[0, 1], [1, 0], [1, 0]]),
        ({"values": [1, 2.5, "1.0"]}, ["1", "2.5", "1.0"], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ({"values": ["a", "rest"], "other": "rest"}, ["a", "z", "rest"], [[1, 0], [0, 1], [0, 1]]),
        ({"values": {"a": ["a"], "rest": []}, "other": "rest"}, ["a", "z"], [[1, 0], [0, 1]]),
        ({"values": ["a"], "missing": "category"}, ["a", "", "NA"], [[1, 0], [0, 1], [0, 1]]),
        ({"values": ["a", "NA"], "missing": "category"}, ["NA", "N/A"], [[0, 1, 0], [0, 0, 1]]),
        ({"values": ["a", "NA"], "missing": "drop_row"}, ["NA", "", "a"], [[0, 1], [1, 0]]),
        ({"values": ["a", "b"], "missing": "category", "other": "b"}, ["", "z"], [[0, 0, 1], [0, 1, 0]]),
        ({"values": ["", "b"]}, ["", "b"], [[1, 0], [0, 1]]),
        ({"values": [" a ", "b"]}, ["a", "b"], [[1, 0], [0, 1]]),
    ],
)
def test_text_becomes_one_of_its_closed_list(
    column: dict[str, Any], cells: list[str], expected: list[list[float]], tmp_path: Path
) -> None:
    found = single(tmp_path / "table.csv", cells, {"role": "category", **column})
    assert found.inputs[:, :-1].tolist() == expected


def test_missing_texts_are_those_of_the_data_set(tmp_path: Path) -> None:
    column = {"role": "feature", "scale": "none", "missing": 0}
    found = single(tmp_path / "table.csv", ["-999", "?", "5"], column, missing_texts=[-999, "?"])
    assert found.inputs[:, 0].tolist() == [0, 0, 5]
    parquet.write_table(
        pyarrow.table({"x": [-999, 2, None], "other": [0, 1, 2], "ill": ["no"] * 3}), tmp_path / "table.parquet"
    )
    columns = {"x": column, "other": {"role": "ignored"}, "ill": LABEL}
    assert read(tmp_path / "table.parquet", columns, missing_texts=[-999]).inputs[:, 0].tolist() == [0, 2, 0]


@pytest.mark.parametrize("order", [["age", "city", "ill"], ["ill", "city", "age"]])
def test_row_that_is_left_out_needs_no_other_value(order: list[str], tmp_path: Path) -> None:
    label = {**LABEL, "drop": ["unknown"]}
    columns = {"age": COLUMNS["age"], "city": {**COLUMNS["city"], "missing": "drop_row"}, "ill": label}
    content = "age,city,ill\n20,Graz,no\n,Wien,unknown\nx,,no\n1e400,Linz,unknown\n30,Wien,yes\n,,perhaps\n"
    found = read_text(tmp_path / "table.csv", content, {name: columns[name] for name in order})
    assert found.labels.tolist() == [0, 1]
    assert sorted(found.inputs[0].tolist()) == pytest.approx([-0.6, 0, 1])


def test_groups_and_sites_keep_the_places_of_their_lists(tmp_path: Path) -> None:
    columns = {
        "city": {"role": ["category", "site"], "values": ["Graz", "Linz", "Wien"], "missing": "category"},
        "ward": {"role": "group", "values": {"a": ["1", "2"], "b": ["3"]}, "other": "b"},
        "ill": LABEL,
    }
    found = read_text(tmp_path / "table.csv", "city,ward,ill\nWien,2,no\n,3,yes\nGraz,9,no\n", columns)
    assert {name: codes.tolist() for name, codes in found.groups.items()} == {"city": [2, 3, 0], "ward": [0, 1, 1]}
    assert found.inputs.argmax(axis=1).tolist() == [2, 3, 0]


# --- times and units ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "form", "expected"),
    [
        (["1970-01-02", "1969-12-31"], None, [86400, -86400]),
        (["1970-01-01 00:01", "1970-01-01T00:00:01.5"], None, [60, 1.5]),
        (["1970-01-01T01:00:00Z", "1970-01-01T01:00:00+01:00", "1970-01-01 01:00-0130"], None, [3600, 0, 9000]),
        (["1970-01-01T00:00:00.123456789", "1970-01-01T00:00:00.1"], None, [0.123456, 0.1]),
        (["1.5", "1600000000", "-1"], None, [1.5, 1.6e9, -1]),
        (["01.02.1970", "31.12.1969"], "%d.%m.%Y", [31 * 86400, -86400]),
        (["01.01.0300", "31.12.9999"], "%d.%m.%Y", [-52700112000, 253402214400]),
        (["1/2/70 1:05 PM"], "%m/%d/%y %I:%M %p", [86400 + 13 * 3600 + 300]),
        (["1970-01-01 01:00:00.25 +0100"], "%Y-%m-%d %H:%M:%S.%f %z", [0.25]),
        (["0300-01-01", "9999-12-31"], None, [-52700112000, 253402214400]),
    ],
)
def test_time_is_seconds_since_1970(cells: list[str], form: str | None, expected: list[float], tmp_path: Path) -> None:
    found = single(tmp_path / "table.csv", cells, {"role": "time", "format": form})
    assert found.times.tolist() == expected


@pytest.mark.parametrize("form", [None, "%Y-%m-%d"])
def test_row_with_missing_time_may_be_left_out(form: str | None, tmp_path: Path) -> None:
    column = {"role": "time", "format": form, "missing": "drop_row"}
    found = single(tmp_path / "table.csv", ["", "1970-01-02", "NA"], column)
    assert found.times.tolist() == [86400] and found.inputs[:, 0].tolist() == [1]


def utc(*values: int) -> list[datetime.datetime]:
    return [datetime.datetime.fromtimestamp(value, datetime.UTC).replace(tzinfo=None) for value in values]


@pytest.mark.parametrize(
    "values",
    [
        pyarrow.array(utc(90000, -1), pyarrow.timestamp("us")),
        pyarrow.array(utc(90000, -1), pyarrow.timestamp("ns")),
        pyarrow.array(utc(90000, -1), pyarrow.timestamp("ms", "Europe/Vienna")),
        pyarrow.array([90000, -1], pyarrow.int32()),
        pyarrow.array([90000, -1], pyarrow.float64()),
        pyarrow.array(["1970-01-02T02:00+01:00", "1969-12-31T23:59:59Z"], pyarrow.large_string()),
        pyarrow.array([decimal.Decimal("90000.00"), decimal.Decimal("-1.00")]),
    ],
    ids=lambda values: str(values.type),
)
def test_time_of_parquet_is_seconds_since_1970(values: pyarrow.Array, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"when": values, "age": [1, 2], "ill": ["no", "yes"]}), path)
    found = read(path, {"when": {"role": "time"}, "age": COLUMNS["age"], "ill": LABEL})
    assert found.times is not None and found.times.tolist() == [90000, -1]


def test_date_of_parquet_and_missing_time_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    dates = [datetime.date(1970, 1, 3), None, datetime.date(1969, 12, 31)]
    columns = {"when": {"role": "time", "missing": "drop_row"}, "age": COLUMNS["age"], "ill": LABEL}
    for kind in (pyarrow.date32(), pyarrow.date64(), pyarrow.timestamp("s"), pyarrow.timestamp("us", "Europe/Vienna")):
        whole = {"when": pyarrow.array(dates).cast(kind), "age": [1, 2, 3], "ill": ["no", "yes", "no"]}
        parquet.write_table(pyarrow.table(whole), path)
        found = read(path, columns)
        assert found.times is not None and found.times.tolist() == [2 * 86400, -86400]


def test_feature_may_be_the_time_as_well(tmp_path: Path) -> None:
    column = {"role": ["feature", "time"], "low": 0, "high": 200}
    found = single(tmp_path / "table.csv", ["100", "200"], column)
    assert found.times.tolist() == [100, 200] and found.inputs[:, 0].tolist() == [0, 1]


# --- types of Parquet -----------------------------------------------------------------------------------------------

INTEGERS = [getattr(pyarrow, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = [pyarrow.float16(), pyarrow.float32(), pyarrow.float64()]
DECIMALS = [pyarrow.decimal128(5, 2), pyarrow.decimal256(50, 0)]


@pytest.mark.parametrize("kind", [*INTEGERS, *FLOATS, *DECIMALS, pyarrow.string(), pyarrow.large_string()], ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "dictionary"])
def test_number_of_every_type_is_read(kind: pyarrow.DataType, packed: bool, tmp_path: Path) -> None:
    values = pyarrow.array(["20", "70", None]).cast(pyarrow.float64()).cast(kind)
    path = tmp_path / "table.parquet"
    content = {"age": values.dictionary_encode() if packed else values, "ill": ["no", "yes", "no"]}
    parquet.write_table(pyarrow.table(content), path)
    columns = {"age": {**COLUMNS["age"], "missing": 50}, "ill": LABEL}
    assert read(path, columns).inputs[:, 0] == pytest.approx([-0.6, 0.4, 0])
    dropped = {"age": {**COLUMNS["age"], "missing": "drop_row"}, "ill": LABEL}
    assert read(path, dropped).inputs[:, 0] == pytest.approx([-0.6, 0.4])


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pyarrow.array([True, False, None]), ["true", "false"]),
        (pyarrow.array([1, 0, None], pyarrow.int8()), [1, 0]),
        (pyarrow.array([1.0, 0.5, None]), [1, 0.5]),
        (pyarrow.array([b"a", b"b", None]), ["a", "b"]),
        (pyarrow.array(["a", "b", None], pyarrow.string_view()), ["a", "b"]),
        (pyarrow.array(["a", "b", None]).dictionary_encode(), ["a", "b"]),
        (pyarrow.array([datetime.date(2020, 1, 2), datetime.date(2021, 1, 1), None]), ["2020-01-02", "2021-01-01"]),
    ],
    ids=lambda values: str(values.type) if isinstance(values, pyarrow.Array) else "",
)
def test_category_of_every_type_is_read(values: pyarrow.Array, texts: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"x": values, "ill": ["no", "yes", "no"]}), path)
    columns = {"x": {"role": "category", "values": texts, "missing": "category"}, "ill": LABEL}
    assert read(path, columns).inputs.tolist() == np.eye(3).tolist()


def test_truth_values_are_numbers_of_a_feature(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"x": [True, False], "ill": ["no", "yes"]}), path)
    assert read(path, {"x": {"role": "feature", "low": 0, "high": 1}, "ill": LABEL}).inputs.tolist() == [[1], [-1]]


def test_csv_and_parquet_of_the_same_table_are_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = pandas.DataFrame(
        {
            "age": rng.uniform(0, 100, 3000).round(3),
            "city": rng.choice(["Graz", "Wien"], 3000),
            "person": rng.integers(0, 500, 3000),
            "when": pandas.Timestamp("2020-01-01") + pandas.to_timedelta(rng.integers(0, 10**6, 3000), unit="s"),
            "ill": rng.choice(["no", "yes"], 3000),
        }
    )
    columns = {**COLUMNS, "person": {"role": "unit"}, "when": {"role": "time"}}
    whole.to_csv(tmp_path / "table.csv", index=False)
    whole.to_parquet(tmp_path / "table.parquet", row_group_size=700)
    text, stored = read(tmp_path / "table.csv", columns), read(tmp_path / "table.parquet", columns)
    for name in ("inputs", "labels", "times", "units"):
        assert np.array_equal(getattr(text, name), getattr(stored, name))
