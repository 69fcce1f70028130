"""The table with a row for each arm: accuracy, guarantee, time and bytes."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.arm_cells import dagger_notes, guarantee_cell, result_columns, seconds_cell, with_joint_epsilon
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import common_notes
from ppml.reporting.formatting import factor, human_bytes
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Columns, Table, cells_of


@table("summary")
def summary_table(view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, joint: pd.DataFrame) -> Table:
    """Return the table with a row for each arm: accuracy, guarantee, time and bytes."""
    summary = summarise(view, tuple(view.arms), records, costs)
    columns: Columns = {
        "Technique": lambda row: row["label"],
        **result_columns(summary, joint, accuracy="Accuracy, "),
        "Unit; δ; accountant; noise": guarantee_cell,
        "CPU time a run (s)": seconds_cell,
        "Upload, client and round": lambda row: human_bytes(row["upload_mean"]),
        "Expansion": lambda row: factor(row["expansion_mean"]),
    }
    texts = {"Technique", "Unit; δ; accountant; noise"}
    notes = (*view.notes, *dagger_notes(summary), *_sending_notes(summary), *common_notes(view, summary, joint))
    return Table(view.title, cells_of(summary, columns), texts, notes, with_joint_epsilon(summary, joint).reset_index())


def _sending_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    if summary["upload_mean"].isna().all():
        return ()
    return (
        "Upload: the bytes of a client in a round, 1 KB = 1,000 bytes; expansion: those bytes over the same update in "
        "32-bit floats; public keys, sent once, do not count; —: no federation.",
    )
