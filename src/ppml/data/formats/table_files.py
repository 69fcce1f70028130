"""The columns of CSV and Parquet files, as texts or as the types of the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppml.config.columns import TableFields
from ppml.config.datasets import CsvDataset, FileSpec, ParquetDataset
from ppml.config.suggestions import suggestion
from ppml.data.formats.idx import GZIP
from ppml.errors import UserError

if TYPE_CHECKING:
    import pyarrow

DELIMITERS = (",", ";", "\t", "|")
SHOWN = 8
"""Names that a message shows at most."""
HEADER_BYTES = 16 * 2**20


@dataclass(frozen=True)
class TableFile:
    """The read columns of one file.

    Parameters
    ----------
    place : str
        The file, for messages.
    table : pyarrow.Table
        The columns that training or splits need; those of a CSV file are texts.
    first_row : int
        The number of the first row of the table in the file, from 1.
    """

    place: str
    table: pyarrow.Table
    first_row: int = 1


def read_table_file(spec: CsvDataset | ParquetDataset, file: FileSpec, path: Path) -> TableFile:
    """Return the columns of ``path`` that training or splits need.

    Raises
    ------
    UserError
        The file cannot be read as ``spec`` states it: it is empty or damaged, a column is missing, repeated or not
        declared, a row has another number of columns, a text is not in the stated encoding.
    """
    if not path.stat().st_size:
        raise UserError(f"{path}: has 0 bytes; give the complete file")
    return _read_csv(spec, file, path) if isinstance(spec, CsvDataset) else _read_parquet(spec, path)


def check_columns(spec: TableFields, names: Sequence[str], place: Path | str) -> None:
    """Raise a :class:`UserError` unless a file has the declared columns, each once."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{place}: the column {repeated[0]!r} occurs twice in the header; rename one of them")
    absent = [name for name, column in spec.columns.items() if column.is_read and name not in names]
    if absent:
        near = suggestion(absent[0], [name for name in names if name not in spec.columns])
        raise UserError(f"{place}: has no column {_listed(absent)}; {near}the file has {_listed(names)}")
    unknown = [name for name in names if name not in spec.columns]
    if unknown:
        raise UserError(
            f"{place}: has columns that are not declared: {_listed(unknown)}; give each a role, for instance ignored"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


# --- text files -----------------------------------------------------------------------------------------------------


def open_text(path: Path) -> io.BufferedIOBase:
    """Return the bytes of a file, unpacked if it is packed by gzip, whatever its name."""
    import gzip

    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return gzip.open(path) if packed else path.open("rb")


def first_lines(path: Path, count: int, encoding: str) -> list[str]:
    """Return the first lines of a text file, at most ``count``.

    Raises
    ------
    UserError
        The file is no complete gzip file, or the lines are not in ``encoding``.
    """
    import gzip
    import zlib

    try:
        with open_text(path) as file:
            lines = [file.readline(HEADER_BYTES) for _ in range(count)]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is no complete gzip file ({error}); pack it again") from None
    try:
        texts = b"".join(lines).decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not in {encoding}: byte {error.object[error.start]:#x}; state encoding") from None
    return texts.splitlines(keepends=True)


def _read_csv(spec: CsvDataset, file: FileSpec, path: Path) -> TableFile:
    import pyarrow
    from pyarrow import csv as arrow_csv

    names = list(spec.columns)
    if spec.header:
        lines = first_lines(path, file.skip_rows + 1, spec.encoding)[file.skip_rows :]
        names = header_names(lines, spec.delimiter)
        if not any(names):
            raise UserError(f"{path}: has no header after {file.skip_rows} lines; correct skip_rows or header")
        if len(names) == 1 and (sign := guess_delimiter(names[0])):
            raise UserError(f"{path}: the header has one column, {names[0][:80]!r}; state delimiter: {sign!r}")
        check_columns(spec, names, path)
    skipped = file.skip_rows + spec.header
    read = [name for name, column in spec.columns.items() if column.is_read]
    short: list[Any] = []

    def note(row: Any) -> str:
        short.append(row)
        return "error"

    try:
        with open_text(path) as content:
            table = arrow_csv.read_csv(
                pyarrow.PythonFile(content, mode="r"),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, skip_rows=skipped, column_names=names, encoding=_arrow_encoding(spec.encoding)
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=spec.delimiter, newlines_in_values=True, invalid_row_handler=note
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pyarrow.string()), include_columns=read, strings_can_be_null=False
                ),
            )
    except pyarrow.ArrowInvalid as error:
        raise UserError(_csv_problem(path, spec, error, short)) from None
    except (EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path}: is no complete gzip file ({error}); pack it again") from None
    if not table.num_rows:
        raise UserError(f"{path}: has no rows after the header; give the complete file")
    return TableFile(str(path), table, skipped + 1)


def header_names(lines: Sequence[str], delimiter: str) -> list[str]:
    """Return the names of a header, without spaces around them."""
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [name.strip() for name in next(rows, [])]


def guess_delimiter(header: str) -> str | None:
    """Return the most frequent delimiter of a header, None if it has none.

    Examples
    --------
    >>> guess_delimiter("age;income"), guess_delimiter("age")
    (';', None)
    """
    counts = {sign: header.count(sign) for sign in DELIMITERS}
    best = max(counts, key=lambda sign: counts[sign])
    return best if counts[best] else None


def _arrow_encoding(name: str) -> str:
    return "utf8" if name.lower().replace("-", "").replace("_", "") in ("utf8", "utf8sig") else name


def _csv_problem(path: Path, spec: CsvDataset, error: Exception, short: Sequence[Any]) -> str:
    if short:
        row = short[0]
        where = f"row {row.number}" if row.number is not None else "a row"
        text = (row.text or "")[:60]
        return (
            f"{path}: {where} has {row.actual_columns} columns, and {row.expected_columns} are expected: {text!r}; "
            "correct the row, or the delimiter"
        )
    text = " ".join(str(error).split())
    if "UTF8" in text or "utf8" in text:
        return f"{path}: has text that is not in {spec.encoding} ({text}); state encoding, for instance latin-1"
    if "Empty CSV" in text:
        return f"{path}: has no rows; give the complete file"
    return f"{path}: cannot be read as a table: {text}"


# --- Parquet --------------------------------------------------------------------------------------------------------


def _read_parquet(spec: ParquetDataset, path: Path) -> TableFile:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_columns(spec, schema.names, path)
            nested = [field.name for field in schema if pyarrow.types.is_nested(field.type)]
            read = [name for name, column in spec.columns.items() if column.is_read]
            if wrong := [name for name in nested if name in read]:
                raise UserError(
                    f"{path}: the column {wrong[0]!r} is nested ({schema.field(wrong[0]).type}); give flat columns, or "
                    "role ignored"
                )
            table = file.read(columns=read)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: is no Parquet file that can be read ({' '.join(str(error).split())})") from None
    if not table.num_rows:
        raise UserError(f"{path}: has no rows; give the complete file")
    return TableFile(str(path), table)
