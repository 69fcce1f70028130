"""Columns that tell the label of nearly all rows: copies of it, or facts that are known only with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ppml.data.describe.facts import ColumnFacts

MOST_ERRORS = 1_000
"""One row in so many may have another label than its value of the column tells."""
MOST_VALUES = 50
"""Different values of a column that is compared: one with many values tells more by chance."""


def copies_of_label(table: pa.Table, label: str, columns: Sequence[ColumnFacts]) -> Iterator[str]:
    """Yield the names of ``columns`` that tell the label of nearly all rows.

    A column tells the label of a row if most rows with the same value have this label.

    Parameters
    ----------
    table : pyarrow.Table
    label : str
    columns : sequence of ColumnFacts
        The columns that are compared, except those with many values.
    """
    labelled = np.asarray(pc.is_valid(table.column(label)))
    labels = _codes(table.column(label))[labelled]
    commonest, few = np.bincount(labels).max(initial=0), len(labels) // MOST_ERRORS
    for column in columns:
        if column.distinct > MOST_VALUES:
            continue
        values = _codes(table.column(column.name))[labelled]
        pairs = np.zeros((values.max(initial=0) + 1, labels.max(initial=0) + 1), dtype=np.int64)
        np.add.at(pairs, (values, labels), 1)
        told = pairs.max(axis=1).sum()
        # Where one class has nearly all rows, every column tells the label of nearly all.
        if len(labels) - told <= few and told - commonest > 10 * (few + 1):
            yield column.name


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return a number from 0 for each value of a column; a missing value has one, too."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
    return np.asarray(encoded.indices, dtype=np.int64)
