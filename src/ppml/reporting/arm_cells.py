"""Cells and notes of tables with a row for each arm."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from ppml.reporting.footnotes import data_notes, spread_notes
from ppml.reporting.formatting import EMPTY_CELL, epsilon_bound, percent_estimate, scientific, significant
from ppml.reporting.guarantee import privacy_notes

DAGGER = "†"


def each_row(summary: pd.DataFrame, cell: Callable[[pd.Series], str]) -> list[str]:
    """Return the cell of each row of a summary."""
    return [cell(row) for _, row in summary.iterrows()]


def evaluation_headings(summary: pd.DataFrame) -> tuple[str, str]:
    """Return the headings of the accuracies on the first and on all test images."""
    first = " or ".join(f"{size:,}" for size in dict.fromkeys(summary["n_test"]))
    everything = " or ".join(f"{size:,}" for size in dict.fromkeys(summary["n_test_all"]))
    return f"first {first} (%)", f"all {everything} (%)"


def accuracy_cell(row: pd.Series, name: str = "accuracy") -> str:
    """Return the accuracy on the first test images."""
    return percent_estimate(*(row[f"{name}_{part}"] for part in ("mean", "sd", "low", "high")))


def accuracy_all_cell(row: pd.Series) -> str:
    """Return the accuracy on all test images."""
    return accuracy_cell(row, "accuracy_all")


def seconds_cell(row: pd.Series) -> str:
    """Return the CPU time of a run."""
    return significant(row["cpu_seconds_mean"])


def epsilon_cell(row: pd.Series) -> str:
    """Return the epsilon of one model, with a dagger if delta is too large."""
    return epsilon_bound(row["epsilon"]) + (DAGGER if _delta_too_large(row) else "")


def guarantee_cell(row: pd.Series) -> str:
    """Return unit, delta, accountant and noise."""
    if row["privacy_unit"] == "none":
        return EMPTY_CELL
    dagger = DAGGER if _delta_too_large(row) else ""
    parts = (
        row["privacy_unit"],
        scientific(row["delta"]) + dagger,
        row["accountant"].upper(),
        f"{row['noise']}, {row['noise_source']}",
    )
    return "; ".join(parts)


def dagger_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return the note about each delta that is too large."""
    weak = [row for _, row in summary.iterrows() if _delta_too_large(row)]
    if not weak:
        return ()
    named = ", ".join(
        f"{row['label']}: δ {scientific(row['delta'])}, n = {row['population_size']:,.0f}" for row in weak
    )
    return (
        f"{DAGGER} δ is at least 1/n for n protected examples, or clients ({named}): such a guarantee permits a "
        "mechanism that publishes one of them.",
    )


def common_notes(summary: pd.DataFrame, joint: pd.DataFrame) -> tuple[str, ...]:
    """Return the notes about privacy, accuracy and data."""
    return (*privacy_notes(summary, joint), *spread_notes(summary), *data_notes(summary))


def with_joint_epsilon(summary: pd.DataFrame, joint: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the joint epsilon of all seeds of each arm, infinite without privacy."""
    found = joint.set_index("arms")["epsilon"].reindex(summary.index)
    return summary.assign(epsilon_all_seeds=found.where(summary["privacy_unit"] != "none", math.inf))


def _delta_too_large(row: pd.Series) -> bool:
    return bool(row["privacy_unit"] != "none" and row["delta"] >= 1 / row["population_size"])
