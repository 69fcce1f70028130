"""A user's own CSV or Parquet files: their format, which is found in the content, and their columns."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppml.config.columns import MISSING_TEXTS
from ppml.data.formats.table_files import LARGEST_ROW
from ppml.data.formats.table_text import (
    TableText,
    complete_gzip,
    first_lines,
    guess_delimiter,
    header_names,
    open_text,
    row_number,
    rows_of,
    shown,
)
from ppml.errors import UserError

if TYPE_CHECKING:
    import pyarrow

SAMPLE_LINES = 100
"""Lines from which delimiter and header are guessed."""
SAMPLE_ROWS = 20_000
"""Rows from which the decimal sign is guessed."""
PARQUET = b"PAR1"
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_SHAPES = (
    _NUMBER,
    re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}\b.*"),
    re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+"),
)
"""Numbers, dates and e-mail addresses, which are values and seldom names of columns."""


@dataclass(frozen=True)
class TableFormat:
    """The format of a file, as a data set states it.

    Parameters
    ----------
    kind : {"csv", "parquet"}
    delimiter, decimal : str
        The sign between columns, and the sign before the fraction of a number.
    header : bool
        Whether the first line has the names.
    encoding : str
        The encoding of the text.
    """

    kind: str = "csv"
    delimiter: str = ","
    decimal: str = "."
    header: bool = True
    encoding: str = "utf-8"


@dataclass(frozen=True)
class UserTable:
    """The rows of all files.

    Parameters
    ----------
    paths : tuple of Path
    format : TableFormat
    table : pyarrow.Table
        Every flat column; those of a CSV file are texts.
    nested : mapping
        Name of a column of lists or structures, which is not read -> its kind.
    names : tuple of str
        All columns, in the order of the file.
    """

    paths: tuple[Path, ...]
    format: TableFormat
    table: pyarrow.Table
    nested: dict[str, str]
    names: tuple[str, ...]


def read_user_table(paths: Sequence[Path], header: bool | None = None) -> UserTable:
    """Return the columns of one or several files with the same columns.

    Parameters
    ----------
    paths : sequence of Path
    header : bool, optional
        Whether the first line of a CSV file has the names; by default this is guessed.

    Raises
    ------
    UserError
        A file is empty, damaged or of another format, a name occurs twice, or the files have different columns. No
        message has the text of a row.
    """
    import pyarrow

    tables = [_read_file(path, header) for path in paths]
    first = tables[0]
    for other in tables[1:]:
        if (other.names, other.format) != (first.names, first.format):
            raise UserError(
                f"{other.paths[0]}: has other columns or another format than {first.paths[0]}; describe it alone"
            )
    if len(tables) == 1:
        return first
    try:
        whole = pyarrow.concat_tables([one.table for one in tables], promote_options="permissive")
    except pyarrow.ArrowException:
        raise UserError(f"{first.paths[0]}: has columns of other types than the next files; give one type") from None
    return replace(first, paths=tuple(paths), table=whole)


def _read_file(path: Path, header: bool | None) -> UserTable:
    if not path.stat().st_size:
        raise UserError(f"{path}: has 0 bytes; give the complete file")
    with path.open("rb") as file:
        is_parquet = file.read(len(PARQUET)) == PARQUET
    found = _read_parquet(path) if is_parquet else _read_text(path, header)
    if not found.table.num_rows:
        raise UserError(f"{path}: has no rows; give the complete file")
    return found


def _check_repeated(path: Path, names: Sequence[str]) -> None:
    counts = Counter(names)
    repeated = next((name for name in names if counts[name] > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: the column {shown(repeated)} occurs twice; rename one of them")


def _read_parquet(path: Path) -> UserTable:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_repeated(path, [name.strip() for name in schema.names])
            nested = {
                field.name.strip(): _kind_of(field.type) for field in schema if pyarrow.types.is_nested(field.type)
            }
            flat = [name for name in schema.names if name.strip() not in nested]
            table = file.read(columns=flat).rename_columns([name.strip() for name in flat])
    except (pyarrow.ArrowException, OSError) as error:
        # An error of the system, for instance of a disk, has a number.
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path}: is no Parquet file that can be read ({' '.join(str(error).split())})") from None
    return UserTable((path,), TableFormat("parquet"), table, nested, tuple(name.strip() for name in schema.names))


def _kind_of(kind: pyarrow.DataType) -> str:
    # The full type has names of fields.
    return str(kind).partition("<")[0]


# --- text files -----------------------------------------------------------------------------------------------------


def _read_text(path: Path, header: bool | None) -> UserTable:
    with complete_gzip(path), open_text(path) as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    # Latin-1 has a sign for each byte.
    sample = "".join(first_lines(path, SAMPLE_LINES + 1, "utf-16" if wide else "latin-1"))
    if "\0" in sample:
        raise UserError(f"{path}: is no text file; give a CSV or a Parquet file")
    encoding = "utf-16" if wide else "latin-1"
    if not wide:
        with suppress(UnicodeDecodeError):
            sample, encoding = sample.encode("latin-1").decode("utf-8").removeprefix("\ufeff"), "utf-8"
    found = replace(guess_text_format(sample, header), encoding=encoding)
    try:
        return _read_csv(path, found)
    except UnicodeError:
        if encoding != "utf-8":
            raise UserError(f"{path}: has a NUL sign, or is not in {encoding}; the file is damaged") from None
        return _read_csv(path, replace(found, encoding="latin-1"))


def guess_text_format(text: str, header: bool | None = None) -> TableFormat:
    """Return delimiter and header of the first lines of a text file.

    Parameters
    ----------
    text : str
    header : bool, optional
        Whether the first line has the names; by default this is guessed.

    Examples
    --------
    >>> found = guess_text_format("age;income\\n1,5;2,5\\n")
    >>> found.delimiter, found.header
    (';', True)
    """
    lines = text.count("\n")
    for sign in ("\t", ";", "|", ","):
        rows = list(_rows(text, sign))
        # The last of many lines may be the first one of several that are one row.
        complete = rows[:-1] if lines > SAMPLE_LINES else rows
        if len({len(row) for row in complete}) == 1 and len(complete[0]) > 1:
            break
    else:
        sign = guess_delimiter(text.partition("\n")[0]) or ","
        complete = list(_rows(text, sign))
    return TableFormat(delimiter=sign, header=has_header(complete) if header is None else header)


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True):
            if row:
                yield [cell.strip() for cell in row]
    except csv.Error:
        return


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row has names: numbers, dates and addresses decide, else repeated texts.

    Examples
    --------
    >>> has_header([["age", "sex"], ["39", "m"]]), has_header([["39", "m"], ["40", "f"]])
    (True, False)
    >>> has_header([["city", "2019", "2020"], ["Graz", "5.5", "6.5"]])
    True
    """
    if len(rows) < 2:
        return True
    first, rest = rows[0], rows[1:]
    columns = [[row[place] for row in rest if place < len(row)] for place in range(len(first))]
    names = values = 0
    for cell, column in zip(first, columns, strict=True):
        present = [text for text in column if text not in MISSING_TEXTS]
        if cell in (*MISSING_TEXTS, "?") or not present:
            continue
        for shape in _SHAPES:
            if sum(bool(shape.fullmatch(text)) for text in present) * 2 > len(present):
                is_value = bool(shape.fullmatch(cell))
                names, values = names + (not is_value), values + is_value
                break
    if values and _is_sequence([cell for cell in first if _NUMBER.fullmatch(cell)]):
        return True
    if names or values:
        return names >= values
    return sum(cell in column for cell, column in zip(first, columns, strict=True)) * 2 < len(first)


def _is_sequence(cells: Sequence[str]) -> bool:
    """Return whether whole numbers follow each other, as numbered columns and years do."""
    if len(cells) < 2 or not all(cell.isdecimal() for cell in cells):
        return False
    numbers = [int(cell) for cell in cells]
    return (len(cells) > 2 or 1900 <= numbers[0] <= 2100) and numbers == [*range(numbers[0], numbers[0] + len(cells))]


def _read_csv(path: Path, found: TableFormat) -> UserTable:
    """Return the columns as texts, as :func:`ppml.data.formats.table_files.read_table_file` reads them."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    wrong: list[Any] = []

    def note(row: Any) -> str:
        wrong.append(row)
        return "error"

    names = _names(path, found)
    with TableText(path, found.encoding, found.delimiter) as text, complete_gzip(path):
        if found.header:
            header_names(text.lines(), found.delimiter)
        try:
            table = arrow_csv.read_csv(
                pyarrow.PythonFile(text, mode="r"),
                read_options=arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=LARGEST_ROW),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=found.delimiter, newlines_in_values=True, invalid_row_handler=note
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=False, check_utf8=False
                ),
            )
            problem = ""
        except pyarrow.ArrowInvalid as error:
            problem = str(error)
        if text.doubtful:
            _check_quotes(path, found)
    if problem:
        raise _csv_problem(path, found, problem, wrong)
    if found.delimiter != ",":
        found = replace(found, decimal=guess_decimal(table.slice(0, SAMPLE_ROWS)))
    return UserTable((path,), found, table, {}, tuple(names))


def _names(path: Path, found: TableFormat) -> list[str]:
    """Return the names of the header, or column_1, column_2, ... without one."""
    with TableText(path, found.encoding, found.delimiter) as text:
        try:
            first = header_names(text.lines(), found.delimiter)
        except csv.Error as error:
            raise UserError(f"{path}: the first row cannot be read ({error}); close each quote in it") from None
    if not any(first):
        raise UserError(f"{path}: has no names and no values; give the complete file")
    if not found.header:
        return [f"column_{number}" for number in range(1, len(first) + 1)]
    _check_repeated(path, first)
    return first


def _check_quotes(path: Path, found: TableFormat) -> None:
    """Raise a :class:`UserError` if text follows a quoted value, or a quote is not closed."""
    last = 0
    try:
        for number, _ in rows_of(path, found.encoding, found.delimiter, 0, strict=True):
            last = number
    except csv.Error:
        raise UserError(
            f"{path}: row {last + 1}: a quote is not closed, or text follows it; close it, and write a quote inside a "
            "quoted value twice"
        ) from None


def guess_decimal(table: pyarrow.Table) -> str:
    """Return the sign before the fraction of most numbers in a table of texts."""
    from pyarrow import compute

    counts = {
        sign: sum(
            compute.sum(compute.match_substring_regex(column, rf"^\s*[+-]?[0-9]+{pattern}[0-9]+\s*$")).as_py() or 0
            for column in table.columns
        )
        for sign, pattern in ((".", r"\."), (",", ","))
    }
    return "," if counts[","] > counts["."] else "."


def _csv_problem(path: Path, found: TableFormat, text: str, wrong: Sequence[Any]) -> UserError:
    """Return the error without the text of a row, which may identify a person."""
    if wrong:
        row = wrong[0]
        number = row_number(path, found.encoding, found.delimiter, 0, row.number - 1 + found.header)
        return UserError(
            f"{path}: row {number} has {row.actual_columns} columns, not {row.expected_columns}; correct it"
        )
    if "straddling" in text:
        return UserError(f"{path}: has a row of more than {LARGEST_ROW} bytes; correct the file")
    if "Empty CSV" in text:
        return UserError(f"{path}: has no rows{' after the header' if found.header else ''}; give the complete file")
    return UserError(f"{path}: cannot be read as a table: {' '.join(text.split())[:200]}")
