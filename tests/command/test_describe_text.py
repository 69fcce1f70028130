"""The format of a text file, which ``ppml describe`` guesses: encoding, delimiter, decimal sign, header."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ppml.config.datasets import CsvDataset
from ppml.data.describe.files import guess_text_format, has_header
from tests.command.described import Described, people, write_csv


def test_a_european_file_packed_by_gzip(tmp_path: Path) -> None:
    columns = people()
    columns["weight"] = [str(value).replace(".", ",") for value in columns["weight"]]
    plain = write_csv(tmp_path / "plain.csv", columns, delimiter=";", lineterminator="\r\n")
    packed = tmp_path / "Übersicht 2024.csv"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    found = Described(tmp_path, packed)
    config, _ = found.read()
    spec = found.dataset()
    assert isinstance(spec, CsvDataset)
    assert (config.data.dataset, spec.delimiter, spec.decimal) == ("ubersicht_2024", ";", ",")
    assert list(spec.columns) == list(columns)
    assert "feature" in spec.columns["weight"].role
    assert isinstance(spec.columns["weight"].missing, float)


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_delimiter_is_found(delimiter: str, tmp_path: Path) -> None:
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", people(), delimiter=delimiter))
    found.read()
    assert getattr(found.dataset(), "delimiter", None) == delimiter


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a;b\n1,5;2,5\n3,5;4,5\n", ";"),
        ('a,b\n"x;y","z"\n', ","),
        ('a\tb\n1\t"x, y"\n', "\t"),
        ("a,b\n1,2,3\n4,5\n", ","),
        ("1,5;2,5;3,7\n1,6;2,6;3,8\n", ";"),
    ],
)
def test_delimiter_is_guessed(text: str, delimiter: str) -> None:
    assert guess_text_format(text).delimiter == delimiter


def test_utf_16_is_found(tmp_path: Path) -> None:
    columns = people() | {"city_of_work": ["Köln", "Zürich", "Graz"] * 100}
    path = write_csv(tmp_path / "a.csv", columns)
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
    found = Described(tmp_path, path)
    found.read()
    assert getattr(found.dataset(), "encoding", None) == "utf-16"
    assert {*found.columns()["city_of_work"].values} == {"Köln", "Zürich", "Graz"}


def test_a_letter_behind_the_first_lines_decides_the_encoding(tmp_path: Path) -> None:
    columns = people(5000) | {"place": ["Graz"] * 4900 + ["Köln"] * 100}
    path = write_csv(tmp_path / "a.csv", columns)
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))
    found = Described(tmp_path, path)
    found.read()
    assert getattr(found.dataset(), "encoding", None) == "latin-1"
    assert {*found.columns()["place"].values} == {"Graz", "Köln"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["a", "b"], ["1", "x"], ["2", "y"]], True),
        ([["1", "x"], ["2", "y"]], False),
        ([["?", "1", "x"], ["5", "2", "y"]], False),
        ([["id", "2019", "2020"], ["a", "5.5", "6"]], True),
        ([["0", "1", "2"], ["5.5", "6", "9"]], True),
        ([["red", "round"], ["red", "square"], ["blue", "round"]], False),
        ([["colour", "shape"], ["red", "square"], ["blue", "round"]], True),
        ([["a", "b"]], True),
        ([["Jane", "jane@example.org"], ["Max", "max@example.org"]], False),
        ([["who", "1990-01-31"], ["Max", "1991-12-01"]], False),
        ([["gene", "2020-01-31"], ["x", "5.5"]], True),
    ],
)
def test_header_is_guessed(rows: list[list[str]], expected: bool) -> None:
    assert has_header(rows) == expected


def test_a_header_that_looks_like_values_can_be_told(tmp_path: Path) -> None:
    columns = {"10": list(range(100)) * 3, "40": [0, 1] * 150}
    path = write_csv(tmp_path / "a.csv", columns)
    assert list(Described(tmp_path, path).columns()) == ["column_1", "column_2"]
    assert list(Described(tmp_path, path, "--header").columns()) == ["10", "40"]
