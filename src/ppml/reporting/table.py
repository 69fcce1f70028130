"""A table: cells for readers, the notes below, and the raw numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table ready to be written.

    Parameters
    ----------
    title : str
        Heads it.
    cells : pandas.DataFrame
        Texts; the columns are the headings.
    numeric : frozenset of str
        Headings whose cells are aligned on the right.
    notes : tuple of str
        Lines below the table.
    raw : pandas.DataFrame
        The same rows as tidy raw numbers, for the CSV file.
    """

    title: str
    cells: pd.DataFrame
    numeric: frozenset[str]
    notes: tuple[str, ...]
    raw: pd.DataFrame
