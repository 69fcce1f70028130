"""The table with a row for each class: its recall by each arm."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.footnotes import common_notes
from ppml.reporting.formatting import EMPTY_CELL, percent, thousands
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

NOTE = (
    "Recall: the part of the test examples of a class that is predicted as this class, in percent, the mean over seeds "
    f"± their standard deviation; {EMPTY_CELL}: no test example."
)


@table("classes")
def classes_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, classes: pd.DataFrame, joint: pd.DataFrame
) -> Table:
    """Return the table with a row for each class, and a column with its recall by each arm."""
    require_arms(classes, view.arms, "classes.csv")
    mine = view.rows_of(classes)
    names = list(dict.fromkeys(mine["class"].astype(str)))
    rows = []
    for name in names:
        of_class = mine[mine["class"].astype(str) == name]
        sizes = ", ".join(thousands(int(size)) for size in dict.fromkeys(of_class["examples"]))
        cells = {"Class": name, "Test examples": sizes}
        rows.append(cells | {label: _recall(of_class[of_class["arm"] == arm]) for arm, label in view.arms.items()})
    summary = summarise(view, tuple(view.arms), records, costs)
    notes = (*view.notes, NOTE, *common_notes(view, summary, joint))
    return Table(view.title, pd.DataFrame(rows), {"Class"}, notes, mine.reset_index(drop=True))


def _recall(rows: pd.DataFrame) -> str:
    values = rows["recall"].dropna()
    if values.empty:
        return EMPTY_CELL
    return percent(values.mean()) + (f" ± {percent(values.std(ddof=1))}" if len(values) > 1 else "")
