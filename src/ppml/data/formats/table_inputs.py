"""The inputs of a trained model from a file with the columns of its data set, without the label, in batches."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppml.config.columns import Column, TableFields
from ppml.config.datasets import CsvDataset, DatasetBase, FileSpec, ParquetDataset
from ppml.data.formats.table_encoding import TableRows
from ppml.data.formats.table_files import table_batches
from ppml.data.formats.table_text import TableText, header_names
from ppml.errors import UserError

PARQUET = b"PAR1"
BATCH_NUMBERS = 2**21
"""Numbers of the inputs of a batch at most, 8 MB."""
IGNORED = Column(role=("ignored",))
CORRECT_VALUE = "correct the value, or leave out the row"
REMEDIES = {
    "add it to values, or state other": CORRECT_VALUE,
    "state missing: drop_row, or another rule": CORRECT_VALUE,
    "correct it, or state another role": CORRECT_VALUE,
    "convert it, or state role ignored": "convert it",
    "give flat columns, or role ignored": "give flat columns",
    "correct the names in columns": "correct the names in the file",
}
"""Remedy in an entry -> remedy in a file: a trained model keeps the entry of its training."""
OF_FORMAT = ("encoding", "delimiter", "decimal", "skip_rows", "correct one of them")
"""Words of a remedy that changes the format in an entry."""


class RowInputs(NamedTuple):
    """The encoded rows of a batch.

    Parameters
    ----------
    inputs : float32 array, shape ``(n, columns of the contract)``
        The inputs before normalisation.
    dropped : bool array, shape ``(n,)``
        Whether a rule of a column leaves out the row; inputs of such a row have no meaning.
    """

    inputs: NDArray[np.float32]
    dropped: NDArray[np.bool_]


def input_batches(entry: TableFields, path: Path) -> Iterator[RowInputs]:
    """Yield the rows of a file in its order, read and encoded as those of the training.

    The file has the columns that the model reads, under any other columns. It is a Parquet file, or a text file in the
    format of the entry, which is that of its first file.

    Raises
    ------
    UserError
        The file cannot be read, lacks a column, or has a value that does not fit its column.
    """
    spec: CsvDataset | ParquetDataset
    if _is_parquet(path):
        spec, file = _parquet_spec(entry, path), FileSpec.model_construct()
    else:
        spec, file = _csv_spec(entry, path), FileSpec.model_construct(skip_rows=_skipped_rows(entry))
    width = sum(column.width for column in entry.inputs.values())
    with _remedies_in_file(spec):
        for batch in table_batches(spec, file, path):
            for part in batch.parts(max(1, BATCH_NUMBERS // width)):
                rows = TableRows(spec, part)
                yield RowInputs(rows.inputs(), rows.dropped)


@contextmanager
def _remedies_in_file(spec: CsvDataset | ParquetDataset) -> Iterator[None]:
    """Replace the remedy at the end of an error by one in the file, if it is one in the entry."""
    try:
        yield
    except UserError as error:
        problem, _, remedy = str(error).rpartition("; ")
        if any(word in remedy for word in OF_FORMAT):
            remedy = f"correct the file: the model reads {_format(spec)}"
        raise UserError(f"{problem}; {REMEDIES.get(remedy, remedy)}" if problem else str(error)) from None


def _format(spec: CsvDataset | ParquetDataset) -> str:
    if isinstance(spec, ParquetDataset):
        return "numbers with a decimal point"
    return f"{spec.encoding} with the delimiter {spec.delimiter!r} and the decimal sign {spec.decimal!r}"


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PARQUET)) == PARQUET


def _parquet_spec(entry: TableFields, path: Path) -> ParquetDataset:
    return ParquetDataset.model_construct(
        columns=_columns(entry, _parquet_names(path)), missing_texts=entry.missing_texts
    )


def _parquet_names(path: Path) -> list[str]:
    """Return the names of the columns; none of a damaged file, which the reader explains."""
    import pyarrow
    from pyarrow import parquet

    try:
        return [name.strip() for name in parquet.read_schema(path).names]
    except (pyarrow.ArrowException, OSError):
        return []


def _csv_spec(entry: TableFields, path: Path) -> CsvDataset:
    """Return the entry of the file: its format, its columns that the model reads, and the others as ignored ones."""
    stated = entry if isinstance(entry, CsvDataset) else CsvDataset.model_construct(missing_texts=entry.missing_texts)
    # A user's file may have a header where the published one has none; a header may lack a column or misspell one.
    first = _first_row(path, stated, _skipped_rows(entry))
    has_header = stated.header or 2 * len({*entry.inputs} & {*first}) >= len(entry.inputs)
    columns = _columns(entry, first) if has_header else _columns_without_header(entry, len(first))
    return stated.model_copy(update={"columns": columns, "header": has_header})


def _first_row(path: Path, stated: CsvDataset, skipped: int) -> list[str]:
    """Return the values of the first row; none of a file that cannot be read, which the reader explains."""
    try:
        with TableText(path, stated.encoding, stated.delimiter) as text:
            lines = text.lines()
            for _ in range(skipped):
                next(lines, "")
            return header_names(lines, stated.delimiter)
    except (csv.Error, UnicodeError):
        return []


def _columns(entry: TableFields, names: Sequence[str]) -> dict[str, Column]:
    """Return the columns that the model reads, in its order, and the others of a file as ignored ones."""
    return {**entry.inputs, **{name: IGNORED for name in names if name not in entry.inputs}}


def _columns_without_header(entry: TableFields, count: int) -> dict[str, Column]:
    """Return ``count`` columns in the order of the file, which is that of the entry; the label may be absent."""
    label = entry.column_with("label") if count == len(entry.columns) - 1 else None
    return {name: entry.inputs.get(name, IGNORED) for name in entry.columns if name != label}


def _skipped_rows(entry: TableFields) -> int:
    """Return the lines before the header in the first file of the entry."""
    return entry.files[0].skip_rows if isinstance(entry, DatasetBase) and entry.files else 0
