"""The public rules by which the columns of a table become inputs: declared scales and closed lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.columns import GROUP_ROLES, Column, TableFields
from ppml.config.datasets import CsvDataset
from ppml.config.suggestions import shorten
from ppml.data.formats.table_files import TableFile
from ppml.data.formats.table_text import shown
from ppml.data.raw_examples import RawExamples
from ppml.errors import UserError

if TYPE_CHECKING:
    import pyarrow

SHOWN_VALUES = 12
"""Values of a closed list that a message shows at most."""
_UNITS = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Unit of a time of Arrow -> its number in a second."""


def encode_table(spec: TableFields, file: TableFile) -> RawExamples:
    """Return the rows of a file as examples, in their order, without dropped rows.

    No number of the encoding depends on another row.

    Raises
    ------
    UserError
        A value does not fit its column; the message names the file, the row, the column and the value.
    """
    rows = TableRows(spec, file)
    kept = np.flatnonzero(~rows.dropped)
    if not len(kept):
        raise UserError(f"{file.place}: every row is left out by the rules for missing values; change a rule")
    examples = rows.examples()
    return examples.select(kept) if len(kept) < len(rows.dropped) else examples


class TableRows:
    """The rows of one file, or of a batch of it, before their encoding.

    Parameters
    ----------
    spec : TableFields
        The columns and their rules. The label is needed for :meth:`examples` alone.
    file : TableFile
        The read columns.

    Attributes
    ----------
    dropped : bool array, shape ``(n,)``
        Whether a rule leaves out the row; numbers of such a row have no meaning.
    """

    def __init__(self, spec: TableFields, file: TableFile) -> None:
        self._spec = spec
        self._file = file
        self.dropped = np.zeros(file.table.num_rows, dtype=bool)
        for name, column in spec.columns.items():
            if column.is_read and (column.drop or column.missing == "drop_row"):
                self._drop_rows(name, column)

    def inputs(self) -> NDArray[np.float32]:
        """Return the inputs of the model, shape ``(n, columns of the contract)``.

        Raises
        ------
        UserError
            A value does not fit its column.
        """
        count, columns = len(self.dropped), self._spec.inputs
        inputs = np.zeros((count, sum(column.width for column in columns.values())), dtype=np.float32)
        start = 0
        for name, column in columns.items():
            block = inputs[:, start : start + column.width]
            if column.is_category:
                block[np.arange(count), self._indices(name, column)] = 1.0
            else:
                block[:, 0] = scale_numbers(column, self._numbers(name, column))
            start += column.width
        return inputs

    def examples(self) -> RawExamples:
        """Return the inputs with labels, groups, times and units.

        Raises
        ------
        UserError
            A value does not fit its column.
        """
        spec, inputs = self._spec, self.inputs()
        label = str(spec.column_with("label"))
        groups = {name: column for name, column in spec.columns.items() if set(column.role) & set(GROUP_ROLES)}
        time, unit = spec.column_with("time"), spec.column_with("unit")
        return RawExamples(
            inputs,
            self._indices(label, spec.columns[label]),
            {name: self._indices(name, column) for name, column in groups.items()},
            None if time is None else self._times(time, spec.columns[time]),
            None if unit is None else self._units(unit, spec.columns[unit]),
        )

    def _error(self, row: int, name: str, problem: str) -> UserError:
        return UserError(f"{self._file.place}: row {self._file.row_number(row)}, column {shown(name)}: {problem}")

    def _values(self, name: str) -> pyarrow.Array:
        """Return a column in one piece, without a dictionary."""
        import pyarrow

        values = self._file.table.column(name).combine_chunks()
        return values.dictionary_decode() if pyarrow.types.is_dictionary(values.type) else values

    def _texts(self, name: str) -> tuple[pyarrow.Array, NDArray[np.bool_]]:
        """Return the texts of a column without spaces around them, and which of them are missing."""
        import pyarrow
        from pyarrow import compute

        values = self._values(name)
        if not pyarrow.types.is_string(values.type):
            try:
                # The text of a duration would be its number without its unit.
                if pyarrow.types.is_duration(values.type):
                    raise pyarrow.ArrowNotImplementedError
                values = compute.cast(values, pyarrow.string())
            except pyarrow.ArrowException:
                raise UserError(
                    f"{self._file.place}: column {shown(name)} has values of type {values.type}, which are no text; "
                    "convert it, or state role ignored"
                ) from None
        values = compute.utf8_trim_whitespace(values)
        # A number or a date of a Parquet file is missing as a null.
        missing = compute.is_in(values, value_set=pyarrow.array([*self._spec.missing_texts], pyarrow.string()))
        return values, _mask(compute.or_(missing, compute.is_null(values)))

    def _stored_numbers(self, name: str) -> NDArray[np.float64] | None:
        """Return the numbers of a column of a Parquet file, NaN if missing; None if it holds no numbers."""
        import pyarrow
        from pyarrow import compute

        kind = self._file.table.schema.field(name).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        types = pyarrow.types
        if not any(check(kind) for check in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)):
            return None
        values = compute.cast(self._values(name), pyarrow.float64(), safe=False)
        numbers = np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64)
        for text in self._spec.missing_texts:
            if _is_number(text):
                numbers[numbers == float(text)] = np.nan
        return numbers

    def _drop_rows(self, name: str, column: Column) -> None:
        """Leave out the rows that the rules of a column leave out; no other value of them is then looked at."""
        import pyarrow
        from pyarrow import compute

        numbers = None if column.values else self._stored_numbers(name)
        if numbers is not None:
            self.dropped |= np.isnan(numbers)
            return
        texts, missing = self._texts(name)
        if column.missing == "drop_row":
            # A text of the closed list is a value, also if it means a missing one elsewhere.
            listed = [text for entries in column.values.values() for text in entries]
            self.dropped |= missing & ~_mask(compute.is_in(texts, value_set=pyarrow.array(listed, pyarrow.string())))
        self.dropped |= _mask(compute.is_in(texts, value_set=pyarrow.array([*column.drop], pyarrow.string())))

    def _refuse_missing(self, name: str, column: Column, missing: NDArray[np.bool_], texts: Any = None) -> None:
        """Raise an error for the first missing value, unless a rule of the column says otherwise."""
        # A row that is left out needs no value.
        rows = np.flatnonzero(missing & ~self.dropped)
        if len(rows) and column.missing == "refuse":
            text = None if texts is None else texts[int(rows[0])].as_py()
            value = f" ({shown(text)})" if text else ""
            raise self._error(
                int(rows[0]), name, f"is missing{value}, {len(rows)} in all; state missing: drop_row, or another rule"
            )

    def _indices(self, name: str, column: Column) -> NDArray[np.int64]:
        """Return the position of each value in the closed list of its column."""
        import pyarrow
        from pyarrow import compute

        texts, missing = self._texts(name)
        position = {text: place for place, entries in enumerate(column.values.values()) for text in entries}
        listed = pyarrow.array(list(position), pyarrow.string())
        found = compute.fill_null(compute.index_in(texts, value_set=listed), -1)
        places = np.array([*position.values(), -1], dtype=np.int64)
        indices: NDArray[np.int64] = places[np.asarray(found)]
        unknown = indices < 0
        # A text of the closed list is a value, also if it means a missing one elsewhere.
        missing &= unknown
        self._refuse_missing(name, column, missing, texts)
        if column.missing == "category":
            indices[missing] = len(column.values)
        outside = np.flatnonzero(unknown & ~missing & ~self.dropped)
        if len(outside) and column.other is None:
            row, allowed = int(outside[0]), shorten([*map(shown, position)], SHOWN_VALUES)
            raise self._error(
                row,
                name,
                f"{shown(texts[row].as_py())} is not in the closed list; allowed: {allowed}; add it to values, or "
                "state other",
            )
        if column.other is not None:
            indices[outside] = list(column.values).index(column.other)
        # Of rows that are left out.
        return np.maximum(indices, 0)

    def _numbers(self, name: str, column: Column) -> NDArray[np.float64]:
        """Return the numbers of a column, with the stated number for missing ones."""
        texts, stored = None, self._stored_numbers(name)
        if stored is None:
            texts, missing = self._texts(name)
            numbers = self._parsed(name, texts, missing | self.dropped)
        else:
            numbers, missing = stored, np.isnan(stored)
        self._refuse_missing(name, column, missing, texts)
        numbers[missing] = column.missing if isinstance(column.missing, float) else 0.0
        numbers[self.dropped] = 0.0
        with np.errstate(over="ignore"):
            bad = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)))
        if len(bad):
            row = int(bad[0])
            value = numbers[row] if texts is None else shown(texts[row].as_py())
            raise self._error(row, name, f"{value} is not finite in float32; replace it")
        return numbers

    def _parsed(self, name: str, texts: pyarrow.Array, ignored: NDArray[np.bool_]) -> NDArray[np.float64]:
        import pyarrow
        from pyarrow import compute

        decimal = self._spec.decimal if isinstance(self._spec, CsvDataset) else "."
        present = compute.if_else(pyarrow.array(ignored), pyarrow.scalar("0"), texts)
        if decimal == ",":
            # 1.234 would be read as a number between 1 and 2, and means 1234.
            if len(pointed := np.flatnonzero(_mask(compute.match_substring(present, ".")))):
                text = shown(texts[int(pointed[0])].as_py())
                raise self._error(int(pointed[0]), name, f"{text} has a point, and decimal is ','; correct one of them")
            present = compute.replace_substring(present, ",", ".")
        values, row = _converted(present, lambda part: compute.cast(part, pyarrow.float64()))
        if values is None:
            text = texts[row].as_py()
            hint = "; state decimal: ','" if decimal == "." and _is_number(text.replace(",", ".")) else ""
            raise self._error(row, name, f"{shown(text)} is no number{hint or '; correct it, or state another role'}")
        return np.array(values, dtype=np.float64)

    def _times(self, name: str, column: Column) -> NDArray[np.float64]:
        """Return the seconds of each time since 1970."""
        import pyarrow
        from pyarrow import compute

        values = self._values(name)
        if pyarrow.types.is_date(values.type):
            values = compute.cast(values, pyarrow.timestamp("s"))
        texts, seconds = None, self._stored_numbers(name)
        if pyarrow.types.is_timestamp(values.type):
            # The number of units since 1970 in UTC, also of a column with a zone.
            counts = np.array(compute.cast(values, pyarrow.int64()).to_numpy(zero_copy_only=False), dtype=np.float64)
            seconds = counts / _UNITS[values.type.unit]
        if seconds is None:
            texts, missing = self._texts(name)
            self._refuse_missing(name, column, missing, texts)
            ignored = missing | self.dropped
            seconds = self._parsed_times(name, column, texts, ignored)
        else:
            ignored = np.isnan(seconds) | self.dropped
            self._refuse_missing(name, column, np.isnan(seconds))
        seconds[ignored] = 0.0
        if len(bad := np.flatnonzero(~np.isfinite(seconds))):
            raise self._error(int(bad[0]), name, f"{seconds[bad[0]]} is no time; correct it")
        return seconds

    def _parsed_times(
        self, name: str, column: Column, texts: pyarrow.Array, ignored: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        import pyarrow
        from pyarrow import compute

        kept = np.flatnonzero(~ignored)
        seconds = np.zeros(len(ignored))
        if not len(kept):
            return seconds
        present = texts.take(pyarrow.array(kept))
        if column.format is not None:
            try:
                found, row, kind = *_formatted(present, column.format), f"as {column.format!r}"
            except ValueError as error:
                raise UserError(
                    f"{self._file.place}: column {shown(name)}: format {column.format!r} cannot be used ({error}); "
                    "state another one"
                ) from None
        else:
            # Of times with more digits than microseconds, the others are cut.
            present = compute.replace_substring_regex(present, r"(\.\d{6})\d+", r"\1")
            tried = [(*_converted(present, convert), kind) for kind, convert in _time_conversions()]
            # The message is about the first row that is unlike those before it.
            found, row, kind = next((one for one in tried if one[0] is not None), max(tried, key=lambda one: one[1]))
            kind = f"as {kind}, which the rows above have" if row else "as ISO 8601, or seconds"
        if found is None:
            text = shown(texts[int(kept[row])].as_py())
            raise self._error(int(kept[row]), name, f"{text} is no time {kind}; correct it, or state format")
        seconds[kept] = found
        return seconds

    def _units(self, name: str, column: Column) -> NDArray[np.int64]:
        """Return the number of the unit of each row, equal for equal texts."""
        texts, missing = self._texts(name)
        self._refuse_missing(name, column, missing, texts)
        encoded = texts.dictionary_encode()
        # A keyless hash: equal texts of several files have equal numbers, which no file or message shows.
        numbers = [
            int.from_bytes(hashlib.blake2b(str(text).encode(), digest_size=8).digest(), signed=True)
            for text in encoded.dictionary.to_pylist()
        ]
        places = encoded.indices.fill_null(len(numbers)).to_numpy()
        found: NDArray[np.int64] = np.array([*numbers, 0], dtype=np.int64)[places]
        return found


def scale_numbers(column: Column, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers after the declared scale of their column; those outside the declared range are cut to it."""
    if column.scale in ("fitted", "none") or column.low is None or column.high is None:
        return numbers
    above, span = np.clip(numbers, column.low, column.high) - column.low, column.high - column.low
    if column.scale == "log":
        above, span = np.log1p(above), float(np.log1p(span))
    return above / span * 2 - 1


def fitted_constants(spec: TableFields, inputs: NDArray[np.float32]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each input: of the training examples for fitted columns, otherwise 0 and 1."""
    contract = spec.table_contract()
    fitted = frozenset(contract["fitted"])
    means, deviations = [], []
    for place, name in enumerate(contract["columns"]):
        values = inputs[:, place].astype(np.float64) if name in fitted else None
        means.append(0.0 if values is None else float(values.mean()))
        deviations.append(1.0 if values is None else float(values.std()) or 1.0)
    return tuple(means), tuple(deviations)


def _converted(values: pyarrow.Array, convert: Callable[[Any], Any]) -> tuple[NDArray[Any] | None, int]:
    """Return the converted values, or None and the position of the first value that does not convert."""
    import pyarrow

    def fails(part: pyarrow.Array) -> bool:
        try:
            convert(part)
        except pyarrow.ArrowException:
            return True
        return False

    try:
        return convert(values).to_numpy(zero_copy_only=False), 0
    except pyarrow.ArrowException:
        first, count = 0, len(values)
        while count > 1:
            half = count // 2
            if fails(values.slice(first, half)):
                count = half
            else:
                first, count = first + half, count - half
        return None, first


def _time_conversions() -> Sequence[tuple[str, Callable[[Any], Any]]]:
    """Return the kinds of times without a stated format, and their conversions to seconds."""
    import pyarrow
    from pyarrow import compute

    def seconds(texts: Any, zone: str | None) -> Any:
        counts = compute.cast(compute.cast(texts, pyarrow.timestamp("us", zone)), pyarrow.int64())
        # Of the year 9999 not all bits of the microseconds are kept.
        return compute.divide(compute.cast(counts, pyarrow.float64(), safe=False), 1e6)

    return [
        ("seconds", lambda texts: compute.cast(texts, pyarrow.float64())),
        ("ISO 8601 with a zone", lambda texts: seconds(texts, "UTC")),
        ("ISO 8601 without a zone", lambda texts: seconds(texts, None)),
    ]


def _formatted(texts: pyarrow.Array, pattern: str) -> tuple[NDArray[np.float64] | None, int]:
    """Return the seconds of times in a stated format, or None and the position of the first that has another one."""
    # The parser of Arrow takes 31 February for 2 March.
    import pandas

    times = pandas.to_datetime(texts.to_numpy(zero_copy_only=False), format=pattern, utc=True, errors="coerce")
    if len(bad := np.flatnonzero(times.isna())):
        return None, int(bad[0])
    return times.as_unit("us").asi8 / 1e6, 0


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mask(values: Any) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)
