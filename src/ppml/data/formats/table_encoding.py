"""The public rules by which the columns of a table become inputs: declared scales and closed lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.columns import GROUP_ROLES, Column, TableFields
from ppml.config.datasets import CsvDataset
from ppml.data.formats.table_files import TableFile
from ppml.data.raw_examples import RawExamples
from ppml.errors import UserError

if TYPE_CHECKING:
    import pyarrow

SHOWN_VALUES = 12
"""Values of a closed list that a message shows at most."""


def encode_table(spec: TableFields, file: TableFile) -> RawExamples:
    """Return the rows of a file as examples, in their order, without dropped rows.

    No number of the encoding depends on another row.

    Raises
    ------
    UserError
        A value does not fit its column; the message names the file, the row, the column and the value.
    """
    rows = _Rows(spec, file)
    kept = np.flatnonzero(~rows.dropped)
    if not len(kept):
        raise UserError(f"{file.place}: every row is left out by the rules for missing values; change a rule")
    return rows.examples.select(kept) if len(kept) < len(rows.dropped) else rows.examples


class _Rows:
    """The encoded rows of one file."""

    def __init__(self, spec: TableFields, file: TableFile) -> None:
        self._spec = spec
        self._file = file
        count = file.table.num_rows
        self.dropped = np.zeros(count, dtype=bool)
        contract = spec.table_contract()
        inputs = np.zeros((count, *contract["shape"]), dtype=np.float32)
        start = 0
        for name, column in spec.inputs.items():
            block = inputs[:, start : start + column.width]
            if column.is_category:
                block[np.arange(count), self._indices(name, column)] = 1.0
            else:
                block[:, 0] = scale_numbers(column, self._numbers(name, column))
            start += column.width
        label = str(spec.column_with("label"))
        groups = {name: column for name, column in spec.columns.items() if set(column.role) & set(GROUP_ROLES)}
        time, unit = spec.column_with("time"), spec.column_with("unit")
        self.examples = RawExamples(
            inputs,
            self._indices(label, spec.columns[label]),
            {name: self._indices(name, column) for name, column in groups.items()},
            None if time is None else self._times(time, spec.columns[time]),
            None if unit is None else self._units(unit),
        )

    def _error(self, row: int, name: str, problem: str) -> UserError:
        return UserError(f"{self._file.place}: row {self._file.first_row + row}, column {name!r}: {problem}")

    def _texts(self, name: str) -> tuple[pyarrow.Array, NDArray[np.bool_]]:
        """Return the texts of a column without spaces around them, and which of them are missing."""
        import pyarrow
        from pyarrow import compute

        values = self._file.table.column(name).combine_chunks()
        if not pyarrow.types.is_string(values.type):
            values = compute.cast(values, pyarrow.string())
        values = compute.utf8_trim_whitespace(values)
        # A number or a date of a Parquet file is missing as a null.
        missing = compute.is_in(values, value_set=pyarrow.array([*self._spec.missing_texts], pyarrow.string()))
        mask = compute.or_(missing, compute.is_null(values))
        return values, np.asarray(mask.to_numpy(zero_copy_only=False), dtype=bool)

    def _apply_missing_rule(self, name: str, column: Column, missing: NDArray[np.bool_]) -> None:
        """Drop the rows with a missing value, or refuse the first one, if the rule of the column says so."""
        # A row that is already left out needs no value.
        rows = np.flatnonzero(missing & ~self.dropped)
        if not len(rows):
            return
        if column.missing == "drop_row":
            self.dropped[rows] = True
        elif column.missing == "refuse":
            raise self._error(
                int(rows[0]), name, f"is missing ({len(rows)} in all); state missing: drop_row, or another rule"
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
        if column.drop:
            dropped = compute.is_in(texts, value_set=pyarrow.array([*column.drop], pyarrow.string()))
            self.dropped |= np.asarray(dropped.to_numpy(zero_copy_only=False), dtype=bool)
        unknown = indices < 0
        # A text of the closed list is a value, also if it means a missing one elsewhere.
        missing &= unknown
        self._apply_missing_rule(name, column, missing)
        if column.missing == "category":
            indices[missing] = len(column.values)
        outside = np.flatnonzero(unknown & ~missing & ~self.dropped)
        if len(outside) and column.other is None:
            row = int(outside[0])
            raise self._error(
                row,
                name,
                f"{texts[row].as_py()!r} is not in the closed list; allowed: {_some([*position])}; add it to values, "
                "or state other",
            )
        if column.other is not None:
            indices[outside] = list(column.values).index(column.other)
        # Of rows that are left out.
        return np.maximum(indices, 0)

    def _numbers(self, name: str, column: Column) -> NDArray[np.float64]:
        """Return the numbers of a column, with the stated number for missing ones."""
        import pyarrow
        from pyarrow import compute

        kind = self._file.table.schema.field(name).type
        if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
            values = compute.cast(self._file.table.column(name).combine_chunks(), pyarrow.float64(), safe=False)
            numbers: NDArray[np.float64] = values.to_numpy(zero_copy_only=False).astype(np.float64)
            missing = np.isnan(numbers)
        else:
            texts, missing = self._texts(name)
            numbers = self._parsed(name, texts, missing)
        self._apply_missing_rule(name, column, missing)
        numbers[missing] = column.missing if isinstance(column.missing, float) else 0.0
        with np.errstate(over="ignore"):
            bad = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)) & ~self.dropped)
        if len(bad):
            raise self._error(int(bad[0]), name, f"{numbers[bad[0]]} is not finite in float32; replace it")
        numbers[~np.isfinite(numbers)] = 0.0
        return numbers

    def _parsed(self, name: str, texts: pyarrow.Array, missing: NDArray[np.bool_]) -> NDArray[np.float64]:
        import pyarrow
        from pyarrow import compute

        decimal = self._spec.decimal if isinstance(self._spec, CsvDataset) else "."
        present = compute.if_else(pyarrow.array(missing), pyarrow.scalar("0"), texts)
        pointed = compute.replace_substring(present, ",", ".") if decimal == "," else present

        def convert(part: pyarrow.Array) -> pyarrow.Array:
            return compute.cast(part, pyarrow.float64())

        values, row = _converted(pointed, convert)
        if values is None:
            text = texts[row].as_py()
            hint = "; state decimal: ','" if decimal == "." and _is_number(text.replace(",", ".")) else ""
            raise self._error(row, name, f"{text!r} is no number{hint or '; correct it, or state another role'}")
        return np.array(values, dtype=np.float64)

    def _times(self, name: str, column: Column) -> NDArray[np.float64]:
        """Return the seconds of each time since 1970."""
        import pyarrow
        from pyarrow import compute

        kind = self._file.table.schema.field(name).type
        if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
            seconds: NDArray[np.float64] = self._file.table.column(name).to_numpy().astype(np.float64)
            self._apply_missing_rule(name, column, np.isnan(seconds))
            seconds[np.isnan(seconds)] = 0.0
            return seconds
        texts, missing = self._texts(name)
        self._apply_missing_rule(name, column, missing)
        texts = compute.if_else(pyarrow.array(missing), texts[int(np.flatnonzero(~missing)[0])], texts)
        for convert in _time_conversions(column.format):
            values, row = _converted(texts, convert)
            if values is not None:
                return np.asarray(values, dtype=np.float64)
        expected = f"as {column.format!r}" if column.format else "as ISO 8601, or seconds; state format"
        raise self._error(row, name, f"{texts[row].as_py()!r} is no time {expected}")

    def _units(self, name: str) -> NDArray[np.int64]:
        """Return the number of the unit of each row, equal for equal texts."""
        texts, missing = self._texts(name)
        self._apply_missing_rule(name, self._spec.columns[name], missing)
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
    means, deviations = [], []
    for place, name in enumerate(contract["columns"]):
        values = inputs[:, place].astype(np.float64) if name in contract["fitted"] else None
        means.append(0.0 if values is None else float(values.mean()))
        deviations.append(1.0 if values is None else float(values.std()) or 1.0)
    return tuple(means), tuple(deviations)


def constant_columns(spec: TableFields, inputs: NDArray[np.float32]) -> list[str]:
    """Return the names of input columns with one value in all rows."""
    found, start = [], 0
    for name, column in spec.inputs.items():
        block = inputs[:, start : start + column.width]
        if (block == block[:1]).all():
            found.append(name)
        start += column.width
    return found


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


def _time_conversions(pattern: str | None) -> Sequence[Callable[[Any], Any]]:
    """Return the conversions of texts to seconds that are tried, the last one for the message."""
    import pyarrow
    from pyarrow import compute

    def seconds(stamps: Any) -> Any:
        return compute.divide(compute.cast(compute.cast(stamps, pyarrow.int64()), pyarrow.float64()), 1e6)

    def iso(texts: Any) -> Any:
        return seconds(compute.cast(texts, pyarrow.timestamp("us")))

    def zoned(texts: Any) -> Any:
        return seconds(compute.cast(texts, pyarrow.timestamp("us", "UTC")))

    if pattern is not None:
        return [lambda texts: seconds(compute.strptime(texts, format=pattern, unit="us"))]
    return [lambda texts: compute.cast(texts, pyarrow.float64()), zoned, iso]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _some(values: Sequence[str]) -> str:
    more = f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else ""
    return ", ".join(map(repr, values[:SHOWN_VALUES])) + more
