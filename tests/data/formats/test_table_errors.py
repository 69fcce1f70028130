"""Tables that cannot be read: one line with the file, the row and the column, the value and the remedy."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from ppml.config.datasets import parse_dataset
from ppml.data.formats import table_files, table_text
from ppml.data.loading import load_splits
from ppml.errors import UserError

from .tables import COLUMNS, HEADER, ROWS, one_line, read, read_text

SENSITIVE = {"role": "label", "values": ["no", "yes"]}


def changed(**columns: Any) -> dict[str, Any]:
    """Return the columns with changes of some of them."""
    return {name: {**column, **columns.get(name, {})} for name, column in COLUMNS.items()}


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        ("", ["0 bytes"]),
        ("\n\n\n", ["no header"]),
        (HEADER, ["no rows after the header"]),
        (f"{HEADER}\n\n", ["no rows after the header"]),
        ("age,note,ill\n" + ROWS, ["no column 'city'", "the file has 'age', 'note', 'ill'"]),
        ("age,City ,note,ill\n" + ROWS, ["no column 'city'", "did you mean 'City'"]),
        ("age,city,note,ill,extra\n" + ROWS, ["not declared: 'extra'", "role"]),
        ("age,city,notes,ill\n" + ROWS, ["not declared: 'notes'", "did you mean 'note'"]),
        ("age,city,city,ill\n" + ROWS, ["'city' occurs twice"]),
        ("age,city, city ,ill\n" + ROWS, ["'city' occurs twice"]),
        ("age;city;note;ill\n" + ROWS.replace(",", ";"), ["delimiter: ';'"]),
        ("age\tcity\tnote\till\n" + ROWS.replace(",", "\t"), ["delimiter: '\\t'"]),
        ('age,"city,note,ill\n' + ROWS, ["header cannot be read", "quote"]),
        ("x" * 200_000 + "\n" + ROWS, ["header cannot be read"]),
        (",".join(f"c{number}" for number in range(10_000)) + "\n" + ROWS, ["no column", "and 9992 more"]),
    ],
    ids=lambda value: value[:20].strip() if isinstance(value, str) else "",
)
def test_wrong_header_is_one_line(content: str, pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    one_line(path, lambda: read_text(path, content), *pieces)


@pytest.mark.parametrize(
    ("cells", "pieces"),
    [
        ("x,Graz,a,no", ["column 'age'", "'x' is no number"]),
        ("1 000,Graz,a,no", ["column 'age'", "'1 000' is no number"]),
        ('"1,5",Graz,a,no', ["column 'age'", "'1,5'", "decimal: ','"]),
        ("inf,Graz,a,no", ["column 'age'", "'inf'", "not finite"]),
        ("-1e400,Graz,a,no", ["column 'age'", "'-1e400'", "not finite"]),
        ("1e39,Graz,a,no", ["column 'age'", "'1e39'", "not finite in float32"]),
        ("NaN,Graz,a,no", ["column 'age'", "is missing ('NaN'), 1 in all", "drop_row"]),
        ("NAN,Graz,a,no", ["column 'age'", "'NAN'", "not finite"]),
        (" ,Graz,a,no", ["column 'age'", "is missing, 1 in all"]),
        ("30,Linz,a,no", ["column 'city'", "'Linz' is not in the closed list", "'Graz', 'Wien'", "other"]),
        ("30,graz,a,no", ["column 'city'", "'graz' is not in the closed list"]),
        ("30,,a,no", ["column 'city'", "is missing"]),
        ("30,Graz,a,", ["column 'ill'", "is missing"]),
        ("30,Graz,a,perhaps", ["column 'ill'", "'perhaps'"]),
        (f"30,Graz,a,{'z' * 100_000}", ["column 'ill'", "'zzz", "zzz...'"]),
        ("30,Graz,a", ["has 3 columns, and 4 are expected", "'30,Graz,a'"]),
        ("30,Graz,a,no,more", ["has 5 columns, and 4 are expected"]),
        ("   ", ["has 1 columns"]),
        ("30,Graz,a,n\0o", ["column 'ill'", "'n\\x00o'", "NUL"]),
        ("30,Graz,\0,no", ["column 'note'", "NUL"]),
        ("30,Graz,\udce9,no", ["column 'note'", "'\ufffd'", "not in utf-8", "latin-1"]),
        ("30,Gr\udce4z,a,no", ["column 'city'", "'Gr\ufffdz'", "not in utf-8", "latin-1"]),
        ('30,Graz,"a,no', ["a quote is not closed"]),
        ('30,Graz,a,"no', ["a quote is not closed"]),
        ('30,"Graz"x,a,no', ["a quote"]),
        ('30,"Graz,a,no\n40,"Graz",a,no', ["a quote"]),
    ],
)
@pytest.mark.parametrize(
    ("before", "row", "keys"),
    [
        (HEADER + ROWS, 4, {}),
        (f"# a comment\n\n{HEADER}{ROWS}", 6, {"skip_rows": 2}),
        ("", 1, {"header": False}),
        (f'{HEADER}20,Graz,"two\nlines\r\nthree",no\n\n\n21,Graz,a,no\n', 6, {}),
        ((HEADER + ROWS).replace("\n", "\r\n"), 4, {}),
        ("\ufeff" + HEADER + ROWS, 4, {}),
        ('"age",\t"ci\nty",note,ill\n'.replace("\t", "").replace("ci\nty", "city") + ROWS + "\n", 5, {}),
    ],
    ids=["plain", "skipped", "no header", "breaks", "crlf", "mark", "blank"],
)
def test_bad_value_is_named_with_row_and_column(
    cells: str, pieces: list[str], before: str, row: int, keys: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    content = f"{before}{cells}\n50,Wien,c,yes\n".encode("utf-8", "surrogateescape")
    one_line(path, lambda: read_text(path, content, **keys), f": row {row}", *pieces)


def test_row_is_the_one_of_the_last_of_many(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    rows = ["20,Graz,x,no"] * 60_000
    one_line(path, lambda: read_text(path, "\n".join([HEADER.strip(), *rows, "x,Wien,y,no"])), "row 60002,", "'x'")
    rows[50_000] = '20,Graz,"x,no'
    one_line(path, lambda: read_text(path, "\n".join([HEADER.strip(), *rows])), "row 50002:", "a quote is not closed")
    rows[50_000] = "20,Graz,no"
    one_line(path, lambda: read_text(path, "\n".join([HEADER.strip(), *rows])), "row 50002 has 3 columns")


@pytest.mark.parametrize(
    ("content", "keys", "pieces"),
    [
        (
            "age,city,note,ill\n1.5,Graz,a,no\n",
            {"decimal": ",", "delimiter": ";"},
            ["has one column", "delimiter: ','"],
        ),
        ("age;city;note;ill\n1.234;Graz;a;no\n", {"decimal": ",", "delimiter": ";"}, ["'1.234'", "decimal"]),
        ("age;city;note;ill\n1.234,5;Graz;a;no\n", {"decimal": ",", "delimiter": ";"}, ["'1.234,5'"]),
        (HEADER + ROWS, {"skip_rows": 9}, ["no header after 9 lines"]),
        (HEADER + ROWS, {"header": False}, ["row 1, column 'age'", "'age' is no number"]),
        ((HEADER + ROWS).encode("utf-16"), {}, ["not in utf-8", "encoding: utf-16"]),
        ((HEADER + ROWS).encode("utf-16-le"), {}, ["NUL", "utf-16-le"]),
        ((HEADER + ROWS).encode("utf-16"), {"encoding": "latin-1"}, ["NUL", "encoding: utf-16"]),
        (b"PK\x03\x04" + bytes(100), {}, ["Excel"]),
        (b"PAR1\x15" + bytes(100), {}, ["kind: parquet"]),
        (b"\xd0\xcf\x11\xe0" + bytes(100), {}, ["Excel"]),
        (b"x" * (3 * 2**20), {}, ["no line break"]),
        (HEADER.encode() + b"20,Graz," + b"x" * 2**18 + b",no\n", {}, ["more than 65536 bytes"]),
    ],
    ids=lambda value: "",
)
def test_other_format_is_one_line(
    content: str | bytes, keys: dict[str, Any], pieces: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_text, "HEADER_SIGNS", 2**20)
    monkeypatch.setattr(table_files, "LARGEST_ROW", 2**16)
    path = tmp_path / "table.csv"
    one_line(path, lambda: read_text(path, content, **keys), *pieces)


@pytest.mark.parametrize("name", ["table.csv.gz", "table.csv"])
@pytest.mark.parametrize("damage", ["short", "sum", "content", "start"])
def test_damaged_gzip_is_one_line(name: str, damage: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    packed = gzip.compress((HEADER + "".join(f"{rng.random()},Graz,a,no\n" for _ in range(20_000))).encode())
    path = tmp_path / name
    middle = len(packed) // 2
    content = {
        "short": packed[:-50],
        "sum": packed[:-8] + bytes(8),
        "content": packed[:middle] + bytes(100) + packed[middle + 100 :],
        "start": packed[:12],
    }[damage]
    one_line(path, lambda: read_text(path, content), "no complete gzip file", "pack it again")


def test_every_row_that_is_left_out_leaves_no_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    columns = changed(age={"missing": "drop_row"})
    one_line(path, lambda: read_text(path, f"{HEADER},Graz,a,no\n,Wien,a,yes\n", columns), "every row is left out")


@pytest.mark.parametrize(
    ("rows", "pieces"),
    [
        ("".join(f"{age},{('Graz', 'Wien')[age % 2]},a,no\n" for age in range(20)), ["one class only", "'no'"]),
        ("".join(f"5,{('Graz', 'Wien')[age % 3 % 2]},a,{('no', 'yes')[age % 2]}\n" for age in range(20)), ["'age'"]),
        ("".join(f"{age},Wien,a,{('no', 'yes')[age % 2]}\n" for age in range(20)), ["'city'", "one value", "ignored"]),
    ],
    ids=["class", "number", "category"],
)
def test_training_without_information_is_refused(rows: str, pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(HEADER + rows)
    spec = parse_dataset({"kind": "csv", "files": [str(path)], "columns": COLUMNS, "split": {"kind": "random"}})
    with pytest.raises(UserError) as caught:
        load_splits(spec, {str(path): path})
    assert all(piece in str(caught.value) for piece in pieces)


def test_own_file_with_other_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(HEADER + ROWS)
    content = {"kind": "csv", "columns": COLUMNS, "split": {"kind": "random"}}
    spec = parse_dataset({**content, "files": [{"path": str(path), "sha256": "0" * 64}]})
    one_line(path, lambda: load_splits(spec, {str(path): path}), "0" * 64, "data.define")


# --- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "form", "pieces"),
    [
        (["2020-12-31", "2020-13-01"], None, ["row 3, column 'when'", "'2020-13-01'", "ISO 8601"]),
        (["2020-13-01", "2020-12-31"], None, ["row 2,", "'2020-13-01'", "state format"]),
        (["2020-02-28", "2020-02-30"], None, ["row 3,", "'2020-02-30'"]),
        (["2020-01-01T10:00Z", "2020-01-01T10:00"], None, ["row 3,", "ISO 8601 with a zone", "rows above"]),
        (["2020-01-01T10:00", "2020-01-01T10:00Z"], None, ["row 3,", "ISO 8601 without a zone"]),
        (["1600000000", "2020-01-01"], None, ["row 3,", "'2020-01-01'", "seconds"]),
        (["1600000000", "inf"], None, ["row 3,", "inf"]),
        (["31.12.2020", "01.01.2021"], None, ["row 2,", "'31.12.2020'", "state format"]),
        (["31.12.2020", "31.02.2021"], "%d.%m.%Y", ["row 3,", "'31.02.2021'", "'%d.%m.%Y'"]),
        (["31.12.2020", "12.31.2020"], "%d.%m.%Y", ["row 3,", "'12.31.2020'"]),
        (["31.12.2020", "31.12.2020 10:00"], "%d.%m.%Y", ["row 3,", "'31.12.2020 10:00'"]),
        (["31.12.2020", ""], "%d.%m.%Y", ["row 3,", "is missing"]),
        (["31.12.2020", "NaT"], "%d.%m.%Y", ["row 3,", "'NaT'"]),
    ],
)
def test_bad_time_is_named(times: list[str], form: str | None, pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    columns = {"age": COLUMNS["age"], "when": {"role": "time", "format": form}, "ill": COLUMNS["ill"]}
    content = "age,when,ill\n" + "".join(f"1,{time},no\n" for time in times)
    one_line(path, lambda: read_text(path, content, columns), "column 'when'", *pieces)


# --- Parquet --------------------------------------------------------------------------------------------------------

GOOD = {"age": [20, 70], "city": ["Graz", "Wien"], "note": [1, 2], "ill": ["no", "yes"]}


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"age": [[1], [2]]}, ["'age' is nested", "list"]),
        ({"city": [{"a": 1}, {"a": 2}]}, ["'city' is nested", "struct"]),
        ({"age": ["1", "x"]}, ["row 2, column 'age'", "'x' is no number"]),
        ({"age": [1.0, float("inf")]}, ["row 2, column 'age'", "inf is not finite"]),
        ({"age": [1.0, None]}, ["row 2, column 'age'", "is missing, 1 in all"]),
        ({"age": [1.0, float("nan")]}, ["row 2, column 'age'", "is missing"]),
        ({"age": [10**39, 1]}, ["row 1, column 'age'", "not finite"]),
        ({"age": pyarrow.array([1, 2], pyarrow.duration("s"))}, ["column 'age'", "duration"]),
        ({"age": pyarrow.array([1, 2], pyarrow.date32())}, ["row 1, column 'age'", "'1970-01-02' is no number"]),
        ({"city": ["Graz", None]}, ["row 2, column 'city'", "is missing"]),
        ({"city": [b"Graz", b"\xff"]}, ["column 'city'", "type binary"]),
        ({"city": [1.0, 2.0]}, ["row 1, column 'city'", "'1'"]),
        ({"ill": [True, False]}, ["row 1, column 'ill'", "'true'"]),
        ({"ill": pyarrow.nulls(2)}, ["row 1, column 'ill'", "is missing, 2 in all"]),
    ],
)
def test_bad_parquet_column_is_named(changes: dict[str, Any], pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    content = {**GOOD, **changes}
    if content["age"] == [10**39, 1]:
        content["age"] = pyarrow.array([10**38 * 9, 1], pyarrow.decimal256(60))
    parquet.write_table(pyarrow.table(content), path)
    one_line(path, lambda: read(path), *pieces)


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        (b"", ["0 bytes"]),
        (b"PAR1", ["no Parquet file"]),
        ((HEADER + ROWS).encode(), ["no Parquet file"]),
    ],
)
def test_no_parquet_is_one_line(content: bytes, pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(content)
    one_line(path, lambda: read(path), *pieces)


def test_parquet_without_rows_or_with_repeated_columns_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    whole = pyarrow.table(GOOD)
    parquet.write_table(whole.slice(0, 0), path)
    one_line(path, lambda: read(path), "no rows")
    for name in ("age", " age "):
        parquet.write_table(whole.append_column(name, whole["age"]), path)
        one_line(path, lambda: read(path), "'age' occurs twice")


def test_no_damaged_parquet_ends_in_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = pyarrow.table({"age": rng.random(500), "city": ["Graz"] * 500, "note": range(500), "ill": ["no"] * 500})
    buffer = io.BytesIO()
    parquet.write_table(whole, buffer)
    plain, path = buffer.getvalue(), tmp_path / "table.parquet"
    for _ in range(150):
        content = bytearray(plain)
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(256)
        path.write_bytes(bytes(content[: rng.integers(1, len(content))]) if rng.random() < 0.3 else bytes(content))
        try:
            read(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_no_damaged_text_ends_in_another_error(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "table.csv"
    plain = (HEADER + ROWS * 5 + '5,"Graz","a ""b""\nc",no\n').encode()
    signs = [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"x", b"9", b" ", b""]
    for _ in range(300):
        content = plain
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(content))
            content = content[:place] + rng.choice(signs) + content[place + rng.randint(0, 2) :]
        try:
            found = read_text(path, content)
            assert len(found) <= 12 and np.isfinite(found.inputs).all()
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_zipped_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("table.csv", HEADER + ROWS)
    one_line(path, lambda: read(path), "zip", "unpack")
