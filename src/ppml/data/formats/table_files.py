"""The columns of CSV and Parquet files, as texts or as the types of the file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppml.config.columns import TableFields
from ppml.config.datasets import CsvDataset, FileSpec, ParquetDataset
from ppml.config.suggestions import shorten, suggestion
from ppml.data.formats.table_text import (
    TableText,
    complete_gzip,
    guess_delimiter,
    header_names,
    row_number,
    rows_of,
    shown,
    unreadable,
)
from ppml.errors import UserError

if TYPE_CHECKING:
    import pyarrow

SHOWN = 8
"""Names that a message shows at most."""
LARGEST_ROW = 8 * 2**20
"""Bytes of the longest row of a CSV file, and of a batch of rows."""
BATCH_VALUES = 2**20
"""Values of a batch of a Parquet file at most."""


def _from_one(row: int) -> int:
    return row + 1


def _shifted(row_number: Callable[[int], int], start: int, row: int) -> int:
    """Return the number of a row in the file; ``row`` counts from the first row of a batch."""
    return row_number(start + row)


@dataclass(frozen=True)
class TableFile:
    """The read columns of one file.

    Parameters
    ----------
    place : str
        The file, for messages.
    table : pyarrow.Table
        The columns that training or splits need; those of a CSV file are texts.
    row_number : callable
        Returns the number of a row in the file, as messages show it: from 1, and for a CSV file as a spreadsheet does.
    """

    place: str
    table: pyarrow.Table
    row_number: Callable[[int], int] = _from_one

    def parts(self, size: int) -> Iterator[TableFile]:
        """Yield the rows in parts of at most ``size`` rows."""
        for start in range(0, self.table.num_rows, size):
            yield TableFile(self.place, self.table.slice(start, size), partial(_shifted, self.row_number, start))


def read_table_file(spec: CsvDataset | ParquetDataset, file: FileSpec, path: Path) -> TableFile:
    """Return the columns of ``path`` that training or splits need.

    Raises
    ------
    UserError
        The file cannot be read as ``spec`` states it: it is empty or damaged, a column is missing, repeated or not
        declared, a row has another number of columns, a text is not in the stated encoding.
    """
    import pyarrow

    _require_content(path)
    if isinstance(spec, ParquetDataset):
        return _read_parquet(spec, path)
    batches = [*_csv_batches(spec, file, path)]
    return TableFile(str(path), pyarrow.concat_tables([batch.table for batch in batches]), batches[0].row_number)


def table_batches(spec: CsvDataset | ParquetDataset, file: FileSpec, path: Path) -> Iterator[TableFile]:
    """Yield the rows that :func:`read_table_file` returns in batches, so that the memory does not grow with the file.

    Raises
    ------
    UserError
        As for :func:`read_table_file`; rows before the problem may have been yielded.
    """
    _require_content(path)
    yield from _csv_batches(spec, file, path) if isinstance(spec, CsvDataset) else _parquet_batches(spec, path)


def _require_content(path: Path) -> None:
    if not path.stat().st_size:
        raise UserError(f"{path}: has 0 bytes; give the complete file")


def check_columns(spec: TableFields, names: Sequence[str], place: Path | str) -> None:
    """Raise a :class:`UserError` unless a file has the declared columns, each once."""
    counts = Counter(names)
    if len(counts) < len(names):
        repeated = next(name for name in names if counts[name] > 1)
        raise UserError(f"{place}: the column {shown(repeated)} occurs twice in the header; rename one of them")
    unknown = [name for name in names if name not in spec.columns]
    absent = [name for name, column in spec.columns.items() if column.is_read and name not in counts]
    if absent:
        raise UserError(
            f"{place}: has no column {_listed(absent)}; {suggestion(absent[0], unknown)}the file has {_listed(names)}; "
            "correct the names in columns"
        )
    if unknown:
        near = suggestion(unknown[0], [name for name in spec.columns if name not in counts])
        raise UserError(
            f"{place}: has columns that are not declared: {_listed(unknown)}; {near}give each a role, for instance "
            "ignored"
        )


def _listed(names: Sequence[str]) -> str:
    return shorten([*map(shown, names)], SHOWN)


# --- text files -----------------------------------------------------------------------------------------------------


def _csv_batches(spec: CsvDataset, file: FileSpec, path: Path) -> Iterator[TableFile]:
    import pyarrow

    def row_of(row: int) -> int:
        return row_number(path, spec.encoding, spec.delimiter, file.skip_rows, row + spec.header)

    names: list[str] = []
    problem: Exception | None = None
    count, has_checked_quotes = 0, False
    with TableText(path, spec.encoding, spec.delimiter) as text:
        # Only errors are explained here; a file without any is read once.
        try:
            names = _header(spec, file, path, text)
            for batch in _parsed(spec, path, text, names):
                if text.doubtful and not has_checked_quotes:
                    _check_quotes(spec, file, path)
                    has_checked_quotes = True
                if batch.num_rows:
                    yield TableFile(str(path), pyarrow.Table.from_batches([batch]), partial(_shifted, row_of, count))
                count += batch.num_rows
        except UnicodeError:
            names = [] if spec.header else list(spec.columns)
            raise unreadable(path, spec.encoding, spec.delimiter, file.skip_rows, names) from None
        except (pyarrow.ArrowInvalid, _Uneven) as error:
            problem = error
        if text.doubtful and not has_checked_quotes:
            _check_quotes(spec, file, path)
    if isinstance(problem, _Uneven):
        raise UserError(
            f"{path}: row {row_of(problem.row)} has {problem.found} columns, and {len(names)} are expected: "
            f"{shown(problem.text)}; correct the row, or state another delimiter"
        )
    if problem is not None and "straddling" in str(problem):
        raise UserError(f"{path}: has a row of more than {LARGEST_ROW} bytes; correct the file")
    if problem is not None and "Empty CSV" not in str(problem):
        raise UserError(f"{path}: cannot be read as a table: {' '.join(str(problem).split())}")
    if not count:
        raise UserError(f"{path}: has no rows{' after the header' if spec.header else ''}; give the complete file")


class _Uneven(Exception):
    """A row with another number of columns."""

    def __init__(self, row: int, found: int, text: str) -> None:
        super().__init__(row)
        self.row, self.found, self.text = row, found, text


def _header(spec: CsvDataset, file: FileSpec, path: Path, text: TableText) -> list[str]:
    """Return the names of the columns; the text is then at the first row."""
    lines = text.lines()
    for _ in range(file.skip_rows):
        next(lines, "")
    if not spec.header:
        return list(spec.columns)
    try:
        names = header_names(lines, spec.delimiter)
    except csv.Error as error:
        raise UserError(f"{path}: the header cannot be read ({error}); close each quote in it") from None
    if any("\0" in name for name in names):
        raise UnicodeError("NUL")
    if not any(names):
        raise UserError(f"{path}: has no header after {file.skip_rows} lines; correct skip_rows or header")
    if len(names) == 1 and (sign := guess_delimiter(names[0])):
        raise UserError(f"{path}: the header has one column, {shown(names[0])}; state delimiter: {sign!r}")
    check_columns(spec, names, path)
    return names


def _parsed(spec: CsvDataset, path: Path, text: TableText, names: list[str]) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow
    from pyarrow import csv as arrow_csv

    uneven: list[_Uneven] = []

    def note(row: Any) -> str:
        uneven.append(_Uneven(row.number - 1, row.actual_columns, row.text or ""))
        return "error"

    try:
        with complete_gzip(path):
            yield from arrow_csv.open_csv(
                pyarrow.PythonFile(text, mode="r"),
                # One thread, so that the parser knows the number of a row. The text is UTF-8 by now.
                read_options=arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=LARGEST_ROW),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=spec.delimiter, newlines_in_values=True, invalid_row_handler=note
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pyarrow.string()),
                    include_columns=[name for name, column in spec.columns.items() if column.is_read],
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
    except pyarrow.ArrowInvalid:
        if uneven:
            raise uneven[0] from None
        raise


def _check_quotes(spec: CsvDataset, file: FileSpec, path: Path) -> None:
    """Raise a :class:`UserError` if text follows a quoted value, or a quote is not closed.

    The parser would take all rows up to the next quote for one value.
    """
    number = file.skip_rows
    try:
        for row, _ in rows_of(path, spec.encoding, spec.delimiter, file.skip_rows, strict=True):
            number = row
    except csv.Error:
        raise UserError(
            f"{path}: row {number + 1}: a quote is not closed, or text follows a quoted value; close each quote, and "
            "write one inside a quoted value twice"
        ) from None


# --- Parquet --------------------------------------------------------------------------------------------------------


def _read_parquet(spec: ParquetDataset, path: Path) -> TableFile:
    import pyarrow

    with _opened(spec, path) as (file, stored):
        table = file.read(columns=[*stored.values()])
        table = pyarrow.table({name: table.column(column) for name, column in stored.items()})
    if not table.num_rows:
        raise UserError(f"{path}: has no rows; give the complete file")
    return TableFile(str(path), table)


def _parquet_batches(spec: ParquetDataset, path: Path) -> Iterator[TableFile]:
    import pyarrow

    count = 0
    with _opened(spec, path) as (file, stored):
        rows = max(1, BATCH_VALUES // max(1, len(stored)))
        for batch in file.iter_batches(rows, columns=[*stored.values()]):
            table = pyarrow.table({name: batch.column(column) for name, column in stored.items()})
            yield TableFile(str(path), table, partial(_shifted, _from_one, count))
            count += batch.num_rows
    if not count:
        raise UserError(f"{path}: has no rows; give the complete file")


@contextmanager
def _opened(spec: ParquetDataset, path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Yield an open file, and the stored name of each column that training or splits need."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            stored = {name.strip(): name for name in schema.names}
            check_columns(spec, [name.strip() for name in schema.names], path)
            read = [name for name, column in spec.columns.items() if column.is_read]
            for name in read:
                kind = schema.field(stored[name]).type
                if pyarrow.types.is_nested(kind):
                    raise UserError(
                        f"{path}: the column {shown(name)} is nested ({kind}); give flat columns, or role ignored"
                    )
            yield file, {name: stored[name] for name in read}
    except (pyarrow.ArrowException, OSError) as error:
        # An error of the system, for instance of a disk, has a number.
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path}: is no Parquet file that can be read ({' '.join(str(error).split())})") from None
