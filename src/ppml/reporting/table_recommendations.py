"""The table with a row for each threat and technique: cost, and the parties that must be trusted."""

from __future__ import annotations

import math
from dataclasses import asdict

import pandas as pd

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import common_notes
from ppml.reporting.formatting import epsilon_bound, factor, human_bytes, percent, percent_estimate, significant
from ppml.reporting.recommendations import Recommendation, recommendations
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

PLAIN = 1.005
"""An upload with a smaller expansion is as large as the update in 32-bit floats."""

NOTES = (
    "Cost: percentage points of accuracy on the seeds of both arms, and CPU time of the training of all parties, "
    "against one owner of all examples with the same model and without privacy; bytes that a client sends in a round, "
    "and their multiple of the update in 32-bit floats; CPU time and bytes of one encrypted prediction.",
    "Trust: the named parties follow the protocol. No collusion: the named parties do not combine their data and keys. "
    "Each reader of the model needs trust where ε is ∞, since the model may reveal examples.",
)


@table("recommendations")
def recommendations_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, inferences: pd.DataFrame, joint: pd.DataFrame
) -> Table:
    """Return the table with a row for each threat and technique."""
    found = recommendations(view, records, costs, inferences)
    view.require(found, "table recommendations", "protects against a threat; select one with federation or privacy")
    cells = pd.DataFrame([_cells(one) for one in found])
    summary = summarise(view, tuple(view.arms), records, costs)
    notes = (*view.notes, *NOTES, *common_notes(summary, joint))
    texts = {"Threat", "Technique", "Cost", "Trust"}
    return Table(view.title, cells, texts, notes, pd.DataFrame([asdict(one) for one in found]))


def _cells(one: Recommendation) -> dict[str, str]:
    return {
        "Threat": one.threat,
        "Technique": one.label,
        "ε": epsilon_bound(one.epsilon),
        "Accuracy (%)": percent_estimate(one.accuracy, one.accuracy_sd, one.accuracy_low, one.accuracy_high),
        "Cost": cost_text(one),
        "Trust": one.trust,
    }


def cost_text(one: Recommendation) -> str:
    """Return the measured costs of a recommendation, without the ones that do not apply."""
    if not math.isnan(one.prediction_seconds):
        return f"{significant(one.prediction_seconds, 2)} s and {human_bytes(one.prediction_bytes)} a prediction"
    parts = []
    if one.reference:
        parts += [f"{percent(one.accuracy_lost)} points", f"CPU time {factor(one.time_factor)}"]
    if not math.isnan(one.upload):
        parts.append(
            f"upload {human_bytes(one.upload)}" + (f", {factor(one.expansion)}" if one.expansion > PLAIN else "")
        )
    return "; ".join(parts) or "—"
