"""The possible meanings of a published epsilon: the same noise, composed in several ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ppml.accounting.gdp import renyi_epsilon, steps_for_epsilon
from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.footnotes import data_notes, spread_notes
from ppml.reporting.formatting import EMPTY_CELL, epsilon_bound, percent_estimate, scientific, significant
from ppml.reporting.guarantee import privacy_notes
from ppml.reporting.literature import PublishedRow
from ppml.reporting.registry import table
from ppml.reporting.summaries import rows_for_arm, summarise
from ppml.reporting.table import Table

ACCOUNTANTS = {"rdp": "RDP", "prv": "PRV", "pld": "PLD", "gdp": "exact"}


@table(
    "epsilon_interpretations",
    shows="the possible meanings of each published epsilon",
    reads=("records", "costs", "joint"),
    published=True,
    joint_arms="epsilon_compared",
)
def epsilon_interpretations_table(
    view: ExperimentView,
    records: pd.DataFrame,
    costs: pd.DataFrame,
    joint: pd.DataFrame,
    published: Mapping[str, PublishedRow],
) -> Table:
    """Return the table with a row for each private arm that answers a published epsilon.

    Raises
    ------
    UserError
        No private arm answers a published row with an epsilon.
    """
    require_published(view, published)
    summary = summarise(view, view.compared_arms(), records, costs)
    answers = {str(arm): row for arm, row in summary.iterrows()}
    lines, raw = [], []
    for comparison in view.compare:
        theirs = published[comparison.published].epsilon
        if theirs is None or comparison.arm is None or answers[comparison.arm]["privacy_unit"] == "none":
            continue
        seeds = rows_for_arm(records, comparison.arm)
        ours = seeds.sort_values("epsilon", kind="stable").iloc[-1]
        reading = _reading(theirs, ours)
        raw.append({"published": comparison.published, "arm": comparison.arm, "their_epsilon": theirs, **reading})
        lines.append(_line(published[comparison.published], answers[comparison.arm], ours, reading))
    if not lines:
        raise UserError(
            f"table epsilon_interpretations of {view.title!r}: no private arm answers a published epsilon in `compare`"
        )
    cells = pd.DataFrame(lines)
    shown = summary.loc[list(dict.fromkeys(row["arm"] for row in raw))]
    notes = (
        "ε of all steps: with amplification by the executed sampling. Steps without sampling: the number of steps, at "
        "the noise of the arm and on all examples, with the ε closest to the published one, and that ε; exact "
        "(Gaussian differential privacy) and by RDP. δ is ours if the paper states none.",
        *privacy_notes(shown, joint),
        *spread_notes(shown),
        *data_notes(shown),
    )
    numeric = frozenset(cells.columns) - {"Published", "Ours"}
    return Table(view.title, cells, numeric, notes, pd.DataFrame(raw))


def _reading(theirs: float, ours: pd.Series) -> dict[str, Any]:
    noise, delta = float(ours["noise_multiplier"]), float(ours["delta"])
    exact, exact_epsilon = steps_for_epsilon(noise, theirs, delta)
    by_rdp, rdp_epsilon = steps_for_epsilon(noise, theirs, delta, renyi_epsilon)
    return {
        **{key: ours[key] for key in ("noise_multiplier", "sample_rate", "steps", "delta", "accuracy_all")},
        **{key: ours[key] for key in ("epsilon", *(f"epsilon_{name}" for name in ACCOUNTANTS))},
        "unsampled_steps_exact": exact,
        "unsampled_epsilon_exact": exact_epsilon,
        "unsampled_steps_rdp": by_rdp,
        "unsampled_epsilon_rdp": rdp_epsilon,
    }


def _line(theirs: PublishedRow, summary: pd.Series, ours: pd.Series, reading: Mapping[str, Any]) -> dict[str, str]:
    every = [
        f"{label} {epsilon_bound(ours[f'epsilon_{name}'])}"
        for name, label in ACCOUNTANTS.items()
        if not pd.isna(ours[f"epsilon_{name}"])
    ]
    return {
        "Published": f"{theirs.paper}: {theirs.technique}",
        "Their ε": EMPTY_CELL if theirs.epsilon is None else significant(theirs.epsilon),
        "Ours": summary["label"],
        "Noise multiplier": significant(ours["noise_multiplier"]),
        "Steps, sampling rate": f"{int(ours['steps']):,}, {significant(ours['sample_rate'])}",
        "ε of all steps": ", ".join(every),
        "δ": scientific(ours["delta"]),
        "Steps without sampling for their ε": ", ".join(
            f"{reading[f'unsampled_steps_{name}']:,} ({label}: {epsilon_bound(reading[f'unsampled_epsilon_{name}'])})"
            for name, label in (("exact", "exact"), ("rdp", "RDP"))
        ),
        "Accuracy, all (%)": percent_estimate(
            *(summary[f"accuracy_all_{part}"] for part in ("mean", "sd", "low", "high"))
        ),
    }
