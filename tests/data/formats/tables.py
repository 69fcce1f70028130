"""Small tables in files, and their readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppml.config.datasets import CsvDataset, ParquetDataset, parse_dataset
from ppml.data.formats.table_encoding import encode_table
from ppml.data.formats.table_files import read_table_file
from ppml.data.raw_examples import RawExamples
from ppml.errors import UserError

COLUMNS: dict[str, Any] = {
    "age": {"role": "feature", "low": 0, "high": 100},
    "city": {"role": "category", "values": ["Graz", "Wien"]},
    "note": {"role": "ignored"},
    "ill": {"role": "label", "values": ["no", "yes"]},
}
HEADER = "age,city,note,ill\n"
ROWS = "20,Graz,a,no\n70,Wien,b,yes\n"


def table_spec(path: Path, columns: dict[str, Any] | None = None, **keys: Any) -> CsvDataset | ParquetDataset:
    """Return a data set of one file; keys of the file go to it."""
    file = {"path": str(path), **{key: keys.pop(key) for key in ("skip_rows", "md5") if key in keys}}
    content = {"files": [file], "columns": columns or COLUMNS, "split": {"kind": "random"}, **keys}
    spec = parse_dataset({"kind": "parquet" if path.suffix == ".parquet" else "csv", **content})
    assert isinstance(spec, CsvDataset | ParquetDataset)
    return spec


def read(path: Path, columns: dict[str, Any] | None = None, **keys: Any) -> RawExamples:
    """Return the encoded rows of a file."""
    spec = table_spec(path, columns, **keys)
    return encode_table(spec, read_table_file(spec, spec.files[0], path))


def read_text(path: Path, content: str | bytes, columns: dict[str, Any] | None = None, **keys: Any) -> RawExamples:
    """Return the encoded rows of a file with a content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, columns, **keys)


def one_line(path: Path, call: Any, *pieces: str) -> None:
    """Check that a call raises an error of one line, which begins with the path and has all pieces."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message and "\r" not in message and len(message) < 1000 + len(str(path))
    for piece in pieces:
        assert piece in message, message
