"""The table with a row for each published number and ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.arm_cells import (
    accuracy_all_cell,
    accuracy_cell,
    common_notes,
    dagger_notes,
    epsilon_cell,
    evaluation_headings,
    seconds_cell,
    with_joint_epsilon,
)
from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.formatting import EMPTY_CELL, human_bytes, percent, significant
from ppml.reporting.guarantee import epsilon_of_all_seeds
from ppml.reporting.literature import PublishedRow
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

NOT_YET = "‡"
NEVER = "never reported"


@table(
    "published",
    shows="a row for each published number, theirs and ours",
    reads=("records", "costs", "joint"),
    published=True,
    joint_arms="compared",
)
def published_table(
    view: ExperimentView,
    records: pd.DataFrame,
    costs: pd.DataFrame,
    joint: pd.DataFrame,
    published: Mapping[str, PublishedRow],
) -> Table:
    """Return the table with a row for each published number: theirs and ours.

    Raises
    ------
    UserError
        No arm answers a published row, a row or an arm does not exist, or the seeds of an arm differ in data set or
        guarantee.
    """
    require_published(view, published)
    if not view.compared_arms():
        raise UserError(f"compare: no published row of {view.title!r} names an arm; the table needs at least one")
    summary = summarise(view, view.compared_arms(), records, costs)
    first, everything = evaluation_headings(summary)
    ours: dict[str, Callable[[pd.Series], str]] = {
        "Ours": lambda row: row["label"],
        first.capitalize(): accuracy_cell,
        everything.capitalize(): accuracy_all_cell,
        "Seeds": lambda row: str(row["seeds"]),
        "Our ε": epsilon_cell,
        "Our ε, all seeds": lambda row: epsilon_of_all_seeds(row, joint),
        "CPU time a run (s)": seconds_cell,
        "Sent a round": lambda row: human_bytes(row["round_bytes_mean"]),
    }
    marks = _footnote_marks(view, published)
    answers = {str(arm): row for arm, row in summary.iterrows()}
    lines: list[dict[str, str]] = []
    for comparison in view.compare:
        line = _theirs(published[comparison.published], marks)
        if comparison.arm is None:
            line |= dict.fromkeys(ours, EMPTY_CELL) | {"Ours": f"{EMPTY_CELL} {NOT_YET}"}
        else:
            line |= {heading: cell(answers[comparison.arm]) for heading, cell in ours.items()}
        lines.append(line)
    nothing = dict.fromkeys(ours, EMPTY_CELL)
    lines += [_theirs(published[key], marks) | nothing for key in view.published]
    cells = pd.DataFrame(lines)
    missing = (f"{NOT_YET} not yet in this project.",) if any(row.arm is None for row in view.compare) else ()
    notes = (
        *(f"{mark} {note}" for note, mark in marks.items()),
        *missing,
        *view.notes,
        *_source_notes(view, published),
        *dagger_notes(summary),
        "Paper to ε: as printed in the paper, on its own test images; the paper does not define its ±.",
        "Sent a round: all clients, up and down, 1 KB = 1,000 bytes; —: no federation.",
        *common_notes(summary, joint),
    )
    numeric = frozenset(cells.columns) - {"Paper", "Table", "Technique", "Ours"}
    return Table(view.title, cells, numeric, notes, _published_raw(view, with_joint_epsilon(summary, joint), published))


def _theirs(row: PublishedRow, marks: Mapping[str, str]) -> dict[str, str]:
    mark = f" {marks[row.note]}" if row.note else ""
    accuracy = NEVER if row.accuracy is None else percent(row.accuracy, 1)
    spread = "" if row.std is None else f" ± {percent(row.std, 1)}"
    return {
        "Paper": row.paper,
        "Table": row.table or EMPTY_CELL,
        "Technique": row.technique + mark,
        "Accuracy (%)": accuracy + spread,
        "ε": EMPTY_CELL if row.epsilon is None else significant(row.epsilon),
    }


def _footnote_marks(view: ExperimentView, published: Mapping[str, PublishedRow]) -> dict[str, str]:
    """Return the mark of each note, numbered in the order of the rows; rows with the same note have one mark."""
    notes = [published[key].note for key in _keys(view)]
    return {note: f"[{number}]" for number, note in enumerate(dict.fromkeys(filter(None, notes)), start=1)}


def _keys(view: ExperimentView) -> list[str]:
    """Return the published rows shown, in order."""
    return [*(row.published for row in view.compare), *view.published]


def _source_notes(view: ExperimentView, published: Mapping[str, PublishedRow]) -> tuple[str, ...]:
    """Return the sources of rows from other than the project's five papers, with their numbers of images."""
    rows = [row for row in (published[key] for key in _keys(view)) if row.source]
    sources = dict.fromkeys(
        f"{row.paper}, {row.source}"
        + (f" ({row.n_train:,} training images)" if row.n_train else "")
        + (f", ε disputed by {row.disputed}" if row.disputed else "")
        for row in rows
    )
    return (f"Sources: {'; '.join(sources)}.",) if sources else ()


def _published_raw(view: ExperimentView, summary: pd.DataFrame, published: Mapping[str, PublishedRow]) -> pd.DataFrame:
    theirs = pd.DataFrame(
        [
            {"published": key, "arm": arm}
            | {f"their_{name}": value for name, value in published[key].to_json().items()}
            for key, arm in [
                *((row.published, row.arm) for row in view.compare),
                *((key, None) for key in view.published),
            ]
        ]
    )
    return theirs.merge(summary.reset_index(), how="left", on="arm", validate="many_to_one")
