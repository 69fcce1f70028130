"""The table with a row for each arm: accuracy, guarantee, time and bytes."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.arm_cells import (
    accuracy_all_cell,
    accuracy_cell,
    common_notes,
    dagger_notes,
    each_row,
    epsilon_cell,
    evaluation_headings,
    guarantee_cell,
    seconds_cell,
    with_joint_epsilon,
)
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.formatting import factor, human_bytes
from ppml.reporting.guarantee import epsilon_of_all_seeds
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table


@table("summary", shows="a row for each arm", reads=("records", "costs", "joint"))
def summary_table(view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, joint: pd.DataFrame) -> Table:
    """Return the table with a row for each arm: accuracy, guarantee, time and bytes.

    Raises
    ------
    UserError
        An arm has no rows, two rows for a seed, or seeds that differ in data set or guarantee.
    """
    summary = summarise(view, tuple(view.arms), records, costs)
    first, everything = evaluation_headings(summary)
    columns = {
        "Technique": summary["label"].tolist(),
        f"Accuracy, {first}": each_row(summary, accuracy_cell),
        f"Accuracy, {everything}": each_row(summary, accuracy_all_cell),
        "Seeds": summary["seeds"].astype(str).tolist(),
        "ε": each_row(summary, epsilon_cell),
        "ε, all seeds": each_row(summary, lambda row: epsilon_of_all_seeds(row, joint)),
        "Unit; δ; accountant; noise": each_row(summary, guarantee_cell),
        "CPU time a run (s)": each_row(summary, seconds_cell),
        "Upload, client and round": each_row(summary, lambda row: human_bytes(row["upload_mean"])),
        "Expansion": each_row(summary, lambda row: factor(row["expansion_mean"])),
    }
    cells = pd.DataFrame(columns)
    numeric = frozenset(cells.columns) - {"Technique", "Unit; δ; accountant; noise"}
    notes = (*view.notes, *dagger_notes(summary), *_sending_notes(summary), *common_notes(summary, joint))
    return Table(view.title, cells, numeric, notes, with_joint_epsilon(summary, joint).reset_index())


def _sending_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    if summary["upload_mean"].isna().all():
        return ()
    return (
        "Upload: the bytes of a client in a round, 1 KB = 1,000 bytes; expansion: those bytes over the same update in "
        "32-bit floats; public keys, sent once, do not count; —: no federation.",
    )
