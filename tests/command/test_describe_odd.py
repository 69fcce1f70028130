"""Odd files, paths, names and texts for ``ppml describe``: each is read exactly, or refused by one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ppml.data.describe.entry import yaml_text
from tests.command.described import Described, call, people, refusal, write_csv


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "0 bytes"),
        (b"a,b,a\n1,2,3\n", "twice"),
        (b"a,b\n", "no rows"),
        (b"\n\n", ""),
        (b"PK\x03\x04" + bytes(100), ""),
        (b"PAR1" + bytes(100), "Parquet"),
        (b"a,b\0\n1,2\n", ""),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 9999, mtime=0)[:-20], "gzip"),
        (b"a,b\n1,2\n" + b"1,2\n" * 50 + b"Jane Roe,1,2\n", "row 53"),
        (b'a,b\n1,2\n3,"Jane Roe\n', "row 3"),
        (b"a\n1\n2\n", ""),
    ],
)
def test_odd_files_are_one_line(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_bytes(content)
    message = refusal(path)
    assert part in message and (str(path) in message or "--label" in message)
    assert "Jane" not in message


def test_parquet_with_a_repeated_column_is_one_line(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array([1, 2])] * 2, names=["a", "a "])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert "twice" in refusal(tmp_path / "a.parquet")


def test_absent_file_and_present_output_are_one_line(tmp_path: Path) -> None:
    assert "absent.csv" in refusal(tmp_path / "absent.csv")
    path = write_csv(tmp_path / "a.csv", people())
    assert "--output" in refusal(path, "--output", path)
    assert path.read_text().startswith("patient_id")


@pytest.mark.parametrize("name", ["a{b}.csv", "<a>.csv", "$HOME/a.csv", "a\nb.csv"])
def test_a_path_that_a_configuration_reads_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_csv(path, people())
    done = call(path)
    assert (done.exit_code, done.stdout) == (1, "")


def test_an_odd_path_is_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / 'it\'s "my" file: #1 & more.csv', people())
    found = Described(tmp_path, path)
    found.read()
    assert found.dataset().files[0].path == str(path)


ODD_NAMES = (
    *("a: b", 'the "best"', "it's", " spaces inside ", "größe", "1st value", "2024", "no", "null", "~", "#", "- a"),
    *("{x}", "[y]", "a,b", "*z", "&w", "!t", "%d", "@at", "`tick", "? q", "a\\b", "tab\tin", "n\u00a0b", "l\u2028s"),
    *("<<", "=", "1e5", "0x1f", "0o7", "12:30", "2020-01-01", "日本", "🙂", "y", "x" * 1200, "back\u0085", "", "a\nb"),
)


def test_odd_names_of_columns(tmp_path: Path) -> None:
    columns = {name: [(row * (place + 3)) % 47 for row in range(300)] for place, name in enumerate(ODD_NAMES)}
    columns |= {"last": ["yes", "no"] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert list(found.columns()) == [name.strip() for name in columns]
    assert [name for name, role in found.roles().items() if role != ("feature",)] == ["last"]


def test_odd_values_of_categories(tmp_path: Path) -> None:
    values = [name.strip() for name in ODD_NAMES if name.strip() and len(name) < 100 and name not in ("null", "NA")]
    columns = {"kind": [values[row % len(values)] for row in range(600)], "x": list(range(200)) * 3, "y": [0, 1] * 300}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert {*found.columns()["kind"].values} == {*values}


@pytest.mark.parametrize("text", [*ODD_NAMES, "true", "None", "NaN", "1_000", "0", "+5", ".5", "a #b", "a:", "x y"])
def test_texts_stay_texts(text: str) -> None:
    import yaml

    assert yaml.safe_load(f"{{key: {yaml_text(text)}, list: [{yaml_text(text)}]}}") == {"key": text, "list": [text]}
