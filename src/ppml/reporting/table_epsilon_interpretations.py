"""The possible meanings of a published epsilon: the same noise, composed in several ways."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ppml.accounting.gdp import renyi_epsilon, steps_for_epsilon
from ppml.errors import UserError
from ppml.reporting.arm_cells import accuracy_cell
from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.footnotes import common_notes
from ppml.reporting.formatting import epsilon_bound, scientific, significant
from ppml.reporting.literature import PublishedRow
from ppml.reporting.registry import table
from ppml.reporting.summaries import largest_epsilon, rows_for_arm, summarise
from ppml.reporting.table import Columns, Table, cells_of

ACCOUNTANTS = {"rdp": "RDP", "prv": "PRV", "pld": "PLD", "gdp": "exact"}


def _of_all_steps(row: pd.Series) -> str:
    known = {label: row[f"epsilon_{name}"] for name, label in ACCOUNTANTS.items() if pd.notna(row[f"epsilon_{name}"])}
    return ", ".join(f"{label} {epsilon_bound(value)}" for label, value in known.items())


def _without_sampling(row: pd.Series) -> str:
    return ", ".join(
        f"{row[f'unsampled_steps_{name}']:,} ({label}: {epsilon_bound(row[f'unsampled_epsilon_{name}'])})"
        for name, label in (("exact", "exact"), ("rdp", "RDP"))
    )


COLUMNS: Columns = {
    "Published": lambda row: row["name"],
    "Their ε": lambda row: significant(row["their_epsilon"]),
    "Ours": lambda row: row["label"],
    "Noise multiplier": lambda row: significant(row["noise_multiplier"]),
    "Steps, sampling rate": lambda row: f"{int(row['steps']):,}, {significant(row['sample_rate'])}",
    "ε of all steps": _of_all_steps,
    "δ": lambda row: scientific(row["delta"]),
    "Steps without sampling for their ε": _without_sampling,
    "Accuracy, all (%)": lambda row: accuracy_cell(row, "accuracy_all"),
}
RAW = (
    *("published", "arm", "their_epsilon", "noise_multiplier", "sample_rate", "steps", "delta", "accuracy_all"),
    *("epsilon", *(f"epsilon_{name}" for name in ACCOUNTANTS)),
    *("unsampled_steps_exact", "unsampled_epsilon_exact", "unsampled_steps_rdp", "unsampled_epsilon_rdp"),
)


@table("epsilon_interpretations", joint_arms="epsilon_compared")
def epsilon_interpretations_table(
    view: ExperimentView,
    records: pd.DataFrame,
    costs: pd.DataFrame,
    joint: pd.DataFrame,
    published: Mapping[str, PublishedRow],
) -> Table:
    """Return the table with a row for each private arm that answers a published epsilon."""
    require_published(view, published)
    summary = summarise(view, view.compared_arms(), records, costs)
    rows = []
    for comparison in view.compare:
        theirs, arm = published[comparison.published], comparison.arm
        if theirs.epsilon is None or arm is None or summary["privacy_unit"][arm] == "none":
            continue
        largest = largest_epsilon(rows_for_arm(records, arm))
        noise, delta = float(largest["noise_multiplier"]), float(largest["delta"])
        row = {**summary.loc[arm], **largest, "published": comparison.published, "their_epsilon": theirs.epsilon}
        row["unsampled_steps_exact"], row["unsampled_epsilon_exact"] = steps_for_epsilon(noise, theirs.epsilon, delta)
        row["unsampled_steps_rdp"], row["unsampled_epsilon_rdp"] = steps_for_epsilon(
            noise, theirs.epsilon, delta, renyi_epsilon
        )
        rows.append({**row, "name": f"{theirs.paper}: {theirs.full_name}"})
    if not rows:
        raise UserError(
            f"table epsilon_interpretations of {view.title!r}: no private arm answers a published epsilon in `compare`"
        )
    answers = pd.DataFrame(rows)
    notes = (
        "ε of all steps: with amplification by the executed sampling. Steps without sampling: the number of steps, at "
        "the noise of the arm and on all examples, with the ε closest to the published one, and that ε; exact "
        "(Gaussian differential privacy) and by RDP. δ is ours if the paper states none.",
        *common_notes(view, summary.loc[list(dict.fromkeys(answers["arm"]))], joint),
    )
    return Table(view.title, cells_of(answers, COLUMNS), {"Published", "Ours"}, notes, answers[list(RAW)])
