"""The table with a row for each published number, and the most accurate arm that answers it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from ppml.reporting.arm_cells import accuracy_cell, seconds_cell
from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.footnotes import common_notes
from ppml.reporting.formatting import epsilon_bound
from ppml.reporting.literature import PublishedRow, accuracy_text
from ppml.reporting.registry import table
from ppml.reporting.summaries import most_accurate, summarise
from ppml.reporting.table import Table

CHOICE = (
    "A row has the most accurate arm that answers the published number with at most the published ε, compared on the "
    "seeds that all candidates have. The table `published` of the same experiment shows all candidates."
)
SLACK = 0.005
"""A published epsilon has two or three digits."""


@table("headline", joint_arms="compared")
def headline_table(
    view: ExperimentView,
    records: pd.DataFrame,
    costs: pd.DataFrame,
    joint: pd.DataFrame,
    published: Mapping[str, PublishedRow],
) -> Table:
    """Return the table with a row for each published number: theirs, and our most accurate answer."""
    require_published(view, published)
    summary = summarise(view, view.compared_arms(), records, costs)
    rows = {str(arm): row for arm, row in summary.iterrows()}
    chosen = best_answers(view, rows, records, published)
    view.require(chosen, "table headline", "answers a published row with at most its ε")
    cells = pd.DataFrame([_cells(published[key], rows[arm]) for key, arm in chosen.items()])
    theirs = pd.DataFrame(
        {
            "published": key,
            "their_accuracy": published[key].accuracy,
            "their_epsilon": published[key].epsilon,
            "arm": arm,
        }
        for key, arm in chosen.items()
    )
    papers = ", ".join(dict.fromkeys(published[key].paper for key in chosen))
    notes = (CHOICE, f"Published: {papers}.", *view.notes, *common_notes(view, summary, joint))
    return Table(
        view.title,
        cells,
        {"Published technique", "Our technique"},
        notes,
        theirs.merge(summary.reset_index(), how="left", on="arm"),
    )


def best_answers(
    view: ExperimentView, rows: Mapping[str, pd.Series], records: pd.DataFrame, published: Mapping[str, PublishedRow]
) -> dict[str, str]:
    """Return the most accurate arm for each published row of ``view``; a row without a suitable arm is absent."""
    candidates: dict[str, list[str]] = {}
    for row in view.compare:
        if row.arm is not None and _as_private(rows[row.arm], published[row.published].epsilon):
            candidates.setdefault(row.published, []).append(row.arm)
    return {key: most_accurate(arms, records) for key, arms in candidates.items()}


def _as_private(row: pd.Series, epsilon: float | None) -> bool:
    """Return whether the epsilon of an arm is at most the published one."""
    return epsilon is None or (math.isfinite(row["epsilon"]) and row["epsilon"] <= epsilon + SLACK)


def _cells(theirs: PublishedRow, row: pd.Series) -> dict[str, str]:
    return {
        "Published technique": theirs.technique,
        "Published (%)": accuracy_text(theirs, "never reported"),
        "Our technique": str(row["label"]),
        "Ours (%)": accuracy_cell(row, "accuracy_all"),
        "ε": epsilon_bound(row["epsilon"]),
        "CPU time (s)": seconds_cell(row),
    }
