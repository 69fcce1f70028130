"""The table with a row for each published number and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ppml.reporting.arm_cells import dagger_notes, result_columns, seconds_cell, with_joint_epsilon
from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.footnotes import common_notes
from ppml.reporting.formatting import EMPTY_CELL, human_bytes, significant
from ppml.reporting.literature import PublishedRow, accuracy_text
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Columns, Table, cells_of

NOT_YET = "‡"


@table("published", joint_arms="compared")
def published_table(
    view: ExperimentView,
    records: pd.DataFrame,
    costs: pd.DataFrame,
    joint: pd.DataFrame,
    published: Mapping[str, PublishedRow],
) -> Table:
    """Return the table with a row for each published number: theirs and ours."""
    require_published(view, published)
    summary = summarise(view, view.compared_arms(), records, costs)
    columns: Columns = {
        "Ours": lambda row: row["label"],
        **result_columns(summary, joint, ours="Our "),
        "CPU time a run (s)": seconds_cell,
        "Sent a round": lambda row: human_bytes(row["round_bytes_mean"]),
    }
    pairs = [*((row.published, row.arm) for row in view.compare), *((key, None) for key in view.published)]
    shown = [published[key] for key, _ in pairs]
    # Rows with the same note have one mark.
    notes_of_rows = dict.fromkeys(row.note for row in shown if row.note)
    marks = {note: f"[{number}]" for number, note in enumerate(notes_of_rows, start=1)}
    ours = cells_of(summary, columns).set_index(summary.index).reindex([arm for _, arm in pairs])
    cells = pd.DataFrame([_theirs(row, marks) for row in shown]).join(ours.reset_index(drop=True)).fillna(EMPTY_CELL)
    missing = [place for place, row in enumerate(view.compare) if row.arm is None]
    cells.loc[missing, "Ours"] = f"{EMPTY_CELL} {NOT_YET}"
    notes = (
        *(f"{mark} {note}" for note, mark in marks.items()),
        *([f"{NOT_YET} not yet in this project."] if missing else []),
        *view.notes,
        *_source_notes(shown),
        *dagger_notes(summary),
        "Paper to ε: as printed in the paper, on its own test images; the paper does not define its ±.",
        "Sent a round: all clients, up and down, 1 KB = 1,000 bytes; —: no federation.",
        *common_notes(view, summary, joint),
    )
    theirs = [{f"their_{name}": value for name, value in row.to_json().items()} for row in shown]
    raw = pd.DataFrame(pairs, columns=["published", "arm"]).join(pd.DataFrame(theirs))
    raw = raw.merge(with_joint_epsilon(summary, joint).reset_index(), how="left", on="arm")
    return Table(view.title, cells, {"Paper", "Table", "Technique", "Ours"}, notes, raw)


def _theirs(row: PublishedRow, marks: Mapping[str, str]) -> dict[str, str]:
    return {
        "Paper": row.paper,
        "Table": row.table or EMPTY_CELL,
        "Technique": f"{row.full_name} {marks[row.note]}" if row.note else row.full_name,
        "Accuracy (%)": accuracy_text(row, "never reported"),
        "ε": EMPTY_CELL if row.epsilon is None else significant(row.epsilon),
    }


def _source_notes(shown: Sequence[PublishedRow]) -> tuple[str, ...]:
    """Return the sources of rows from other than the project's five papers, with their numbers of images."""
    sources = dict.fromkeys(
        f"{row.paper}, {row.source}"
        + (f" ({row.n_train:,} training images)" if row.n_train else "")
        + (f", ε disputed by {row.disputed}" if row.disputed else "")
        for row in shown
        if row.source
    )
    return (f"Sources: {'; '.join(sources)}.",) if sources else ()
