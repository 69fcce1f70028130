"""The table with a row for each threat and technique: cost, and the parties that must be trusted."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from ppml.reporting.decision import TRUST, Option, decide
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import common_notes
from ppml.reporting.leading_metric import metric_title
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

NOTES = (
    "The first technique for a threat is recommended: on the seeds of all techniques for the threat it has the highest "
    "value of the leading metric, and at equal values the smallest upload. The others need the trust of other parties.",
    "Cost: percentage points of this metric on the seeds of both arms, and CPU time of the training of all parties, "
    "against the arm with the same model and without the protection; bytes that a client sends in a round, and their "
    "multiple; CPU time and bytes of one encrypted prediction, both ways. Each arm has training settings of its own, "
    "and the CPU time of the same training differs between runs.",
    TRUST,
)


@table("recommendations")
def recommendations_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, inferences: pd.DataFrame, joint: pd.DataFrame
) -> Table:
    """Return the table with a row for each threat and technique, by the same decisions as the HTML report."""
    summary = summarise(view, tuple(view.arms), records, costs)
    found = [
        (data.dataset, one.threat.name, option)
        for data in decide(summary, records, inferences)
        for one in data.decisions
        for option in one.options
    ]
    view.require(found, "table recommendations", "protects against a threat; select one with federation or privacy")
    several = summary["dataset"].nunique() > 1
    cells = pd.DataFrame(
        [_cells(f"{threat} ({data})" if several else threat, one, view.metric) for data, threat, one in found]
    )
    raw = pd.DataFrame([{"dataset": data, "threat": threat, **asdict(one)} for data, threat, one in found])
    notes = (*view.notes, *NOTES, *common_notes(view, summary, joint))
    return Table(view.title, cells, {"Threat", "Technique", "Cost", "Trust"}, notes, raw)


def _cells(threat: str, one: Option, metric: str) -> dict[str, str]:
    return {
        "Threat": threat,
        "Technique": one.label,
        f"{metric_title(metric)} (%)": one.score_text,
        "ε": one.epsilon_text,
        "Cost": one.cost,
        "Trust": one.trust,
    }
