"""Cells and notes of tables with a row for each arm."""

from __future__ import annotations

import math

import pandas as pd

from ppml.reporting.footnotes import epsilon_of_all_seeds
from ppml.reporting.formatting import (
    EMPTY_CELL,
    distinct,
    epsilon_bound,
    percent_estimate,
    scientific,
    significant,
    thousands,
)
from ppml.reporting.leading_metric import metric_title
from ppml.reporting.table import Columns

DAGGER = "†"


def result_columns(summary: pd.DataFrame, joint: pd.DataFrame, *, accuracy: str = "", ours: str = "") -> Columns:
    """Return the columns with the leading metric, accuracies, seeds and epsilons of each arm.

    Parameters
    ----------
    accuracy, ours : str
        First words of the headings of the accuracies and of the epsilons.
    """
    first, everything = (distinct(summary[size], thousands, " or ") for size in ("n_test", "n_test_all"))
    leading = {}
    if (metric := summary["metric"].iloc[0]) != "accuracy":
        leading = {f"{metric_title(metric)}, all {everything} (%)": lambda row: accuracy_cell(row, "score")}
    # A column of the first examples adds nothing where they are all.
    beginning = {f"{accuracy}first {first} (%)".capitalize(): accuracy_cell} if first != everything else {}
    return {
        **leading,
        **beginning,
        f"{accuracy}all {everything} (%)".capitalize(): lambda row: accuracy_cell(row, "accuracy_all"),
        "Seeds": lambda row: str(row["seeds"]),
        f"{ours}ε": lambda row: epsilon_bound(row["epsilon"]) + _dagger(row),
        f"{ours}ε, all seeds": lambda row: epsilon_of_all_seeds(row, joint),
    }


def accuracy_cell(row: pd.Series, name: str = "accuracy") -> str:
    """Return an estimate in percent: ``accuracy`` on the first examples, ``accuracy_all``, or the leading ``score``."""
    return percent_estimate(*(row[f"{name}_{part}"] for part in ("mean", "sd", "low", "high")))


def seconds_cell(row: pd.Series) -> str:
    """Return the CPU time of a run."""
    return significant(row["cpu_seconds_mean"])


def guarantee_cell(row: pd.Series) -> str:
    """Return unit, delta, accountant and noise."""
    if row["privacy_unit"] == "none":
        return EMPTY_CELL
    delta = scientific(row["delta"]) + _dagger(row)
    return f"{row['privacy_unit']}; {delta}; {row['accountant'].upper()}; {row['noise']}, {row['noise_source']}"


def dagger_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return the note about each delta that is too large."""
    weak = [row for _, row in summary.iterrows() if _dagger(row)]
    if not weak:
        return ()
    named = ", ".join(
        f"{row['label']}: δ {scientific(row['delta'])}, n = {row['population_size']:,.0f}" for row in weak
    )
    return (
        f"{DAGGER} δ is at least 1/n for n protected examples, or clients ({named}): such a guarantee permits a "
        "mechanism that publishes one of them.",
    )


def with_joint_epsilon(summary: pd.DataFrame, joint: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the joint epsilon of all seeds of each arm, infinite without privacy."""
    found = joint.set_index("arms")["epsilon"].reindex(summary.index)
    return summary.assign(epsilon_all_seeds=found.where(summary["privacy_unit"] != "none", math.inf))


def _dagger(row: pd.Series) -> str:
    """Return the mark of a delta that is too large, else an empty text."""
    return DAGGER if row["privacy_unit"] != "none" and row["delta"] >= 1 / row["population_size"] else ""
