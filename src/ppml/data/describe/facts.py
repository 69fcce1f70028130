"""The facts of one column that its role is guessed from: kind, range, closed list, missing values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ppml.config.columns import MISSING_TEXTS

if TYPE_CHECKING:
    import pyarrow

SAMPLE = 200_000
"""Rows that show whether a column has few values; ranges and lists come from all rows."""
SCREEN = 1_000
"""Values that show whether a column has numbers, times or addresses, before all of them are read."""
MOST_VALUES = 1_000
"""The largest closed list."""
OTHER_MISSING = ("?", "#N/A", "<NA>", "n/a", "N.A.", "n.a.", "NAN", "NaT", "(null)", "missing", "Missing")
"""Texts that mean a missing value in every column, besides those of the configuration."""
MISSING_NUMBERS = ("-", "--", ".", "*", "na", "none", "unknown", "Unknown")
"""Texts that mean a missing value in a column of numbers or times; a category may have them as values."""
LARGEST = 3.4e38
"""The largest number in float32."""
DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y", "%d %b %Y")
CLOCKS = ("", " %H:%M", " %H:%M:%S")
TIME_FORMATS = tuple(f"{day}{clock}" for day in DAYS for clock in CLOCKS)
SHORT_YEAR = r"^[0-9]{1,2}[-./ ][0-9A-Za-z]{1,3}[-./ ][0-9]{2}( |$)"
EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"

Kind = Literal["number", "time", "text", "empty", "other"]


@dataclass(frozen=True)
class ColumnFacts:
    """The facts of one column.

    Parameters
    ----------
    name : str
    kind : {"number", "time", "text", "empty", "other"}
        ``empty``: every value is missing. ``other``: a column that no role reads; ``reason`` says why.
    rows : int
    reason : str
    missing : int
        Rows without a value.
    missing_texts : frozenset of str
        The texts of them.
    counts : mapping or None
        Each text and its number of rows, the commonest first; None with more than `MOST_VALUES` texts.
    differs : bool
        Whether no value occurs twice.
    is_integer : bool
    low, high : float
        The smallest and the largest number.
    has_fractions : bool
        Whether a number is not an integer.
    format : str or None
        The format of times; None for ISO 8601.
    has_emails : bool
    """

    name: str
    kind: Kind
    rows: int
    reason: str = ""
    missing: int = 0
    missing_texts: frozenset[str] = frozenset()
    counts: dict[str, int] | None = field(default=None, repr=False)
    differs: bool = False
    is_integer: bool = False
    low: float = 0.0
    high: float = 0.0
    format: str | None = None
    has_emails: bool = False

    @property
    def distinct(self) -> int:
        """The number of texts, above `MOST_VALUES` for many."""
        return MOST_VALUES + 1 if self.counts is None else len(self.counts)

    @property
    def values(self) -> tuple[str, ...]:
        """The texts in the order of numbers, or of the alphabet; empty for many."""
        return tuple(sorted(self.counts or (), key=_order))

    @property
    def others(self) -> int:
        """The number of rows besides those with the commonest value; all rows for many values."""
        if self.counts is None:
            return self.rows
        return self.rows - max([self.missing, *self.counts.values()])


def _order(text: str) -> tuple[float, str]:
    number = re.fullmatch(r"[+-]?\d+(\.\d+)?", text, re.ASCII)
    return (float(text), text) if number else (float("inf"), text)


def column_facts(name: str, values: pyarrow.ChunkedArray, decimal: str = ".") -> ColumnFacts:
    """Return the facts of one column of all rows.

    Examples
    --------
    >>> import pyarrow
    >>> found = column_facts("age", pyarrow.chunked_array([["39", " 17", "?"]]))
    >>> found.kind, found.low, found.high, found.missing
    ('number', 17.0, 39.0, 1)
    """
    import pyarrow

    try:
        return _Column(name, values, decimal).facts()
    except pyarrow.ArrowException:
        return ColumnFacts(name, "other", len(values), reason=f"values of type {str(values.type).partition('<')[0]}")


class _Column:
    """A column, or its few different values."""

    def __init__(self, name: str, values: pyarrow.ChunkedArray, decimal: str) -> None:
        import pyarrow
        from pyarrow import compute

        self._name, self._rows, self._decimal = name, len(values), decimal
        kind = values.type
        self._numeric = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)
        self._temporal = pyarrow.types.is_date(kind) or pyarrow.types.is_timestamp(kind)
        if pyarrow.types.is_duration(kind):
            raise pyarrow.ArrowNotImplementedError
        if not self._numeric:
            texts = values if pyarrow.types.is_string(kind) else compute.cast(values, pyarrow.string())
            values = compute.utf8_trim_whitespace(texts)
        self._values = values
        self._counts = self._count()
        # A property of each different value is one of all rows.
        self._pool = values if self._counts is None else pyarrow.chunked_array([list(self._counts)], values.type)

    def _count(self) -> dict[Any, int] | None:
        from pyarrow import compute

        if compute.count_distinct(self._values.slice(0, SAMPLE), mode="all").as_py() > MOST_VALUES:
            return None
        found = compute.value_counts(self._values)
        if len(found) > MOST_VALUES + len(MISSING_TEXTS):
            return None
        pairs = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def facts(self) -> ColumnFacts:
        sure = {*MISSING_TEXTS, *OTHER_MISSING}
        present = self._without(sure)
        if not len(present):
            return ColumnFacts(self._name, "empty", self._rows, missing=self._rows, counts={})
        if self._temporal:
            return self._facts("time", present, sure)
        for missing in (sure, {*sure, *MISSING_NUMBERS}):
            present = self._without(missing)
            if not len(present):
                break
            numbers = self._numbers(present)
            if numbers is not None:
                return self._number_facts(numbers, present, missing)
            if not self._numeric and (found := time_format(present)) is not None:
                return self._facts("time", present, missing, format=found or None)
        present = self._without(sure)
        if self._numeric:
            return ColumnFacts(self._name, "other", self._rows, reason="numbers that are not finite")
        return self._facts("text", present, sure, has_emails=_has_emails(present))

    def _without(self, missing: set[str]) -> pyarrow.ChunkedArray:
        """Return the values, or the different ones, that are not missing."""
        import pyarrow
        from pyarrow import compute

        if self._numeric:
            absent = compute.is_null(self._pool, nan_is_null=True)
        else:
            listed = compute.is_in(self._pool, value_set=pyarrow.array(sorted(missing), pyarrow.string()))
            absent = compute.or_(listed, compute.is_null(self._pool))
        return self._pool.filter(compute.invert(absent))

    def _numbers(self, present: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray | None:
        """Return the values as finite numbers, None if one is another text."""
        import pyarrow
        from pyarrow import compute

        def convert(part: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
            if decimal_comma:
                part = compute.replace_substring(part, ",", ".")
            return compute.cast(part, pyarrow.float64(), safe=False)

        decimal_comma = self._decimal == "," and not self._numeric
        # The loader refuses 1.234 beside 1,5: it could mean 1234.
        if decimal_comma and compute.any(compute.match_substring(present, ".")).as_py():
            return None
        if not _converts(convert, present.slice(0, SCREEN)) or not _converts(convert, present):
            return None
        numbers = convert(present)
        # A code such as 01234 loses its zero as a number.
        if not self._numeric and compute.any(compute.match_substring_regex(_zeros(present), "^0[0-9]")).as_py():
            return None
        return numbers if compute.all(compute.is_finite(numbers)).as_py() else None

    def _number_facts(
        self, numbers: pyarrow.ChunkedArray, present: pyarrow.ChunkedArray, missing: set[str]
    ) -> ColumnFacts:
        from pyarrow import compute

        limits = compute.min_max(numbers).as_py()
        if max(abs(limits["min"]), abs(limits["max"])) > LARGEST:
            return ColumnFacts(self._name, "other", self._rows, reason="numbers beyond float32")
        whole = compute.all(compute.equal(compute.floor(numbers), numbers)).as_py()
        return self._facts("number", present, missing, is_integer=whole, low=limits["min"], high=limits["max"])

    def _facts(self, kind: Kind, present: pyarrow.ChunkedArray, missing: set[str], **found: Any) -> ColumnFacts:
        counts = self._counts
        if counts is None:
            kept, differs = None, _all_differ(present)
            absent, texts = self._rows - len(present), self._missing_texts(missing)
        else:
            known = dict(zip(present.to_pylist(), present.cast("string").to_pylist(), strict=True))
            kept = {text: counts[value] for value, text in known.items()}
            differs = all(count == 1 for count in kept.values())
            absent = self._rows - sum(kept.values())
            texts = frozenset(str(value) for value in counts if isinstance(value, str) and value not in known)
            kept = None if len(kept) > MOST_VALUES else kept
        return ColumnFacts(
            self._name, kind, self._rows, missing=absent, missing_texts=texts, counts=kept, differs=differs, **found
        )

    def _missing_texts(self, missing: set[str]) -> frozenset[str]:
        import pyarrow
        from pyarrow import compute

        if self._numeric:
            return frozenset()
        listed = compute.is_in(self._values, value_set=pyarrow.array(sorted(missing), pyarrow.string()))
        return frozenset(self._values.filter(listed).unique().to_pylist())


def _converts(convert: Callable[[Any], Any], values: Any) -> bool:
    import pyarrow

    try:
        convert(values)
    except pyarrow.ArrowException:
        return False
    return True


def _zeros(texts: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Return the texts that begin with a zero, which one pass without a pattern finds."""
    from pyarrow import compute

    return texts.filter(compute.starts_with(texts, "0"))


def _all_differ(present: pyarrow.ChunkedArray) -> bool:
    from pyarrow import compute

    for part in (present.slice(0, SCREEN), present.slice(0, SAMPLE), present):
        if compute.count_distinct(part).as_py() < len(part):
            return False
    return True


def _has_emails(present: pyarrow.ChunkedArray) -> bool:
    from pyarrow import compute

    screen = present.slice(0, SCREEN)
    return bool(compute.sum(compute.match_substring_regex(screen, EMAIL)).as_py() * 2 > len(screen))


def time_format(texts: pyarrow.ChunkedArray) -> str | None:
    """Return the format of texts that are all times, empty for ISO 8601; None for other texts.

    Examples
    --------
    >>> import pyarrow
    >>> [time_format(pyarrow.chunked_array([[text]])) for text in ("2024-02-28", "28.2.2024 10:30", "Graz")]
    ['', '%d.%m.%Y %H:%M', None]
    """
    from pyarrow import compute

    screen = texts.slice(0, SCREEN)
    if not compute.all(compute.match_substring_regex(screen, r"^[0-9]{1,4}[-./ ]")).as_py():
        return None
    short = compute.all(compute.match_substring_regex(screen, SHORT_YEAR)).as_py()
    fitting = (one for one, convert in _conversions(short) if _are_times(one, convert, screen, texts))
    return next(fitting, None)


def _conversions(short_year: bool) -> Iterable[tuple[str, Callable[[Any], Any]]]:
    import pyarrow
    from pyarrow import compute

    def iso(texts: Any, kind: Any) -> Any:
        # As the loader does: digits behind microseconds are cut.
        return compute.cast(compute.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1"), kind)

    for kind in (pyarrow.timestamp("us"), pyarrow.timestamp("us", "UTC")):
        yield "", partial(iso, kind=kind)
    for pattern in TIME_FORMATS:
        form = pattern.replace("%Y", "%y") if short_year else pattern
        yield form, partial(compute.strptime, format=form, unit="us")


def _are_times(pattern: str, convert: Callable[[Any], Any], *parts: Any) -> bool:
    import pyarrow
    from pyarrow import compute

    for part in parts:
        if not _converts(convert, part):
            return False
        # The number of a version looks like a time.
        years = compute.year(compute.cast(convert(part), pyarrow.timestamp("us")))
        if compute.min(years).as_py() < 1000:
            return False
    return not pattern or _are_days(pattern, parts[-1])


def _are_days(pattern: str, texts: Any) -> bool:
    """Return whether no text is a day such as 31 February, which the parser of Arrow takes for 2 March."""
    import pandas

    times = pandas.to_datetime(texts.to_numpy(), format=pattern, utc=True, errors="coerce")
    return not times.isna().any()
