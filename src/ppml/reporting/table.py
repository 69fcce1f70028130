"""A table: cells for readers, the notes below, and the raw numbers."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import pandas as pd

Columns = Mapping[str, Callable[[pd.Series], str]]
"""The columns of a table by their headings: each returns the cell of a row."""


@dataclass(frozen=True)
class Table:
    """A table ready to be written."""

    title: str
    """Heads it."""
    cells: pd.DataFrame
    """Texts; the columns are the headings."""
    texts: Container[str]
    """Headings whose cells are aligned on the left; all others are numbers."""
    notes: tuple[str, ...]
    """Lines below the table."""
    raw: pd.DataFrame
    """The same rows as tidy raw numbers, for the CSV file."""

    @property
    def headings(self) -> list[str]:
        """The headings of the columns."""
        return [str(heading) for heading in self.cells.columns]

    @property
    def lines(self) -> list[list[str]]:
        """The cells of each row."""
        lines: list[list[str]] = self.cells.to_numpy().tolist()
        return lines

    def aligned(self, left: str, right: str) -> list[str]:
        """Return ``left`` or ``right`` for each column."""
        return [left if heading in self.texts else right for heading in self.headings]


def cells_of(rows: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return the cells of a table with a line for each of ``rows``."""
    return pd.DataFrame([{heading: cell(row) for heading, cell in columns.items()} for _, row in rows.iterrows()])
