"""The text of a CSV file: its encoding, its header, its quotes, and its rows as a spreadsheet counts them."""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np

from ppml.data.formats.idx import GZIP
from ppml.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
SHOWN_SIGNS = 60
"""Signs of a value that a message shows at most."""
HEADER_SIGNS = 16 * 2**20
"""The length of a line at which the search for its end stops."""
BLOCK = 2**20
UNREADABLE = "\udcff"
"""Stands for bytes that are not in the encoding; no encoding has this sign."""
_BREAK = re.compile(r"\r\n|\n|\r")
_QUOTE = ord('"')
# Other content that has the name of a table.
_MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save the sheet as CSV",
    b"PAR1\x15": "a Parquet file; state kind: parquet",
    b"\xfd7zXZ\x00": "packed by xz; unpack it, or pack it by gzip",
    b"BZh91AY&SY": "packed by bzip2; unpack it, or pack it by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or pack it by gzip",
}

codecs.register_error("ppml-unreadable", lambda error: (UNREADABLE, error.end))  # type: ignore[attr-defined]


def shown(text: str) -> str:
    """Return a value in quotes for a message of one line; a long one is cut.

    Examples
    --------
    >>> shown("one\\ntwo"), shown("a" * 100)[-8:]
    ("'one\\\\ntwo'", "aaa...'")
    """
    return repr(text if len(text) <= SHOWN_SIGNS else f"{text[:SHOWN_SIGNS]}...")


def open_text(path: Path) -> IO[bytes]:
    """Return the bytes of a file, unpacked if gzip packed it, under any name."""
    import gzip

    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


@contextmanager
def complete_gzip(path: Path) -> Iterator[None]:
    """Raise a :class:`UserError` for a damaged gzip file that the block reads."""
    import zlib

    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        # An error of the system, for instance of a disk, has a number.
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path}: is no complete gzip file ({error}); pack it again") from None


class TableText(io.RawIOBase):
    """The text of a file: first its lines, then the rest as UTF-8 in blocks, for the parser of Arrow.

    Parameters
    ----------
    path : Path
        The file; gzip may pack it.
    encoding, delimiter : str
        As the data set states them.

    Attributes
    ----------
    doubtful : bool
        Whether a quote is neither at the edge of a value nor doubled, or the last one is not closed, in this text.
    """

    def __init__(self, path: Path, encoding: str, delimiter: str) -> None:
        super().__init__()
        self._path = path
        self._file = open_text(path)
        self._decoder = codecs.getincrementaldecoder(_without_mark(encoding))()
        self._text, self._place, self._started, self._ended = "", 0, False, False
        self._ready, self._tail = b"", b"\n"
        self._is_edge = np.zeros(256, dtype=bool)
        self._is_edge[[*b'"\r\n', ord(delimiter)]] = True
        self._quotes = 0
        self.doubtful = False

    def readable(self) -> bool:
        """Return whether the text can be read."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def lines(self) -> Iterator[str]:
        """Yield the next lines with their ends; each sign is read once."""
        while True:
            found = _BREAK.search(self._text, self._place)
            # A line feed may follow in the next block.
            while not self._ended and (not found or found.end() == len(self._text)):
                if len(self._text) - self._place > HEADER_SIGNS:
                    raise UserError(f"{self._path}: has no line break in {HEADER_SIGNS} signs; it is no table in text")
                looked_at = len(self._text) - self._place - 1
                self._text, self._place = self._text[self._place :] + self._decoded(), 0
                found = _BREAK.search(self._text, max(looked_at, 0))
            start, self._place = self._place, found.end() if found else len(self._text)
            if start == self._place:
                return
            yield self._text[start : self._place]

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of the rest: as many as asked for, since the parser takes fewer for a whole block.

        Raises
        ------
        UnicodeError
            The text is not in the encoding, or has NUL signs, as UTF-16 has in another encoding.
        """
        parts, length = [self._ready], len(self._ready)
        while (length < size or size < 0) and (self._place < len(self._text) or not self._ended):
            text = self._text[self._place :] or self._decoded()
            self._text, self._place = "", 0
            if "\0" in text:
                raise UnicodeError("NUL")
            parts.append(text.encode("utf-8", "replace"))
            length += len(parts[-1])
            self._watch_quotes(parts[-1])
            if self._ended:
                self._watch_quotes(b"\n")
                self.doubtful |= self._quotes % 2 == 1
        content = b"".join(parts)
        size = length if size < 0 else size
        self._ready = content[size:]
        return content[:size]

    def _decoded(self) -> str:
        """Return the text of the next block, without the mark of the byte order."""
        with complete_gzip(self._path):
            content = self._file.read(BLOCK)
        if not self._started:
            for magic, what in _MAGIC.items():
                if content.startswith(magic):
                    raise UserError(f"{self._path}: is {what}")
        self._ended = not content
        text = self._decoder.decode(content, final=self._ended)
        if not self._started and text:
            self._started, text = True, text.removeprefix("\ufeff")
        return text

    def _watch_quotes(self, block: bytes) -> None:
        """Note whether a quote is inside a value, by the signs beside it."""
        if self.doubtful or not block:
            return
        # The last byte but one of the earlier blocks is the sign before, and the last one is looked at now.
        signs = np.frombuffer(self._tail + block, dtype=np.uint8)
        places = 1 + np.flatnonzero(signs[1:-1] == _QUOTE)
        if len(places):
            closing = (self._quotes + np.arange(len(places))) % 2 == 1
            beside = signs[np.where(closing, places + 1, places - 1)]
            self.doubtful = not self._is_edge[beside].all()
            self._quotes += len(places)
        self._tail = (self._tail + block)[-2:]


def header_names(lines: Sequence[str] | Iterator[str], delimiter: str) -> list[str]:
    """Return the names of a header, without spaces around them; blank lines before it are left out.

    Raises
    ------
    csv.Error
        A quote is not closed, or a name is very long.
    """
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter != " ", strict=True)
    return [name.strip() for name in next((row for row in rows if row), [])]


def first_lines(path: Path, count: int, encoding: str) -> list[str]:
    """Return the first lines of a text file, at most ``count``.

    Raises
    ------
    UserError
        The file is no complete gzip file, or the lines are not in ``encoding``.
    """
    with TableText(path, encoding, ",") as text:
        try:
            return [line for line, _ in zip(text.lines(), range(count), strict=False)]
        except UnicodeError:
            raise unreadable(path, encoding, ",") from None


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


# --- the rows, in the search for the row of a message ---------------------------------------------------------------


def rows_of(
    path: Path, encoding: str, delimiter: str, skip_rows: int, *, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield all rows after the skipped lines, blank ones as well, with their numbers as a spreadsheet counts them.

    The first line of the file is row 1. A line break inside a quoted value begins no row.

    Raises
    ------
    csv.Error
        With ``strict``: text follows a quoted value, or a quote is not closed. The row is the one after the last.
    """
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with (
            open_text(path) as file,
            io.TextIOWrapper(file, _without_mark(encoding), "ppml-unreadable", newline="") as lines,
        ):
            skipped = sum(1 for _ in zip(range(skip_rows), lines, strict=False))
            yield from enumerate(csv.reader(lines, delimiter=delimiter, strict=strict), skipped + 1)
    finally:
        csv.field_size_limit(limit)


def _without_mark(encoding: str) -> str:
    """Return the encoding that leaves out the mark of the byte order, for UTF-8."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def row_number(path: Path, encoding: str, delimiter: str, skip_rows: int, record: int) -> int:
    """Return the number of a row in the file; ``record`` counts rows from 0 after the skipped lines, no blank ones."""
    for number, cells in rows_of(path, encoding, delimiter, skip_rows):
        record -= bool(cells)
        if record < 0:
            return number
    raise ValueError("the file has fewer rows")


def unreadable(path: Path, encoding: str, delimiter: str, skip_rows: int = 0, names: Sequence[str] = ()) -> UserError:
    """Return the error for text that is not in the encoding, or has NUL signs.

    Without `names`, the first row has the names of the columns.
    """
    hint = "state encoding, for instance latin-1" if encoding.lower().startswith("utf") else "state another encoding"
    nul_hint = "the file is damaged, or its encoding is utf-16-le or utf-16-be"
    with open_text(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            hint = nul_hint = "it begins as UTF-16 does; state encoding: utf-16"
    try:
        for number, cells in rows_of(path, encoding, delimiter, skip_rows):
            names = names or [cell.strip() for cell in cells]
            for place, cell in enumerate(cells):
                where = f"{path}: row {number}, column {shown(names[place]) if place < len(names) else place + 1}"
                if UNREADABLE in cell:
                    text = shown(cell.replace(UNREADABLE, "\ufffd"))
                    return UserError(f"{where}: {text} is not in {encoding}; {hint}")
                if "\0" in cell:
                    return UserError(f"{where}: {shown(cell)} has a NUL sign; {nul_hint}")
    except UnicodeError:
        pass
    return UserError(f"{path}: is not in {encoding}; {hint}")
