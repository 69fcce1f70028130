"""The table of claims: quotation, our criterion, our numbers, a verdict."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.claims import Finding, findings, weakest
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import data_notes, privacy_notes
from ppml.reporting.formatting import distinct, thousands
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

WRITTEN_OUT = 3
"""Largest number of comparisons in a cell; of more, the cell has the weakest."""

NOTES = (
    "The quotations are from the paper; the criteria are ours, with the meaning of a balance.",
    "Held: every difference of the criterion has a 95 % interval above 0; not held: one has it below 0; undecided "
    "otherwise. The intervals are not corrected for their number.",
)


@table("claims", joint_arms="claimed")
def claims_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, joint: pd.DataFrame, history: pd.DataFrame
) -> Table:
    """Return the table with a row for each claim.

    Returns
    -------
    Table
        ``raw`` has a row for each comparison.

    Raises
    ------
    UserError
        There is no claim, or its arms cannot be compared.
    """
    if not view.claims:
        raise UserError(f"claims: {view.title!r} has none; the table needs at least one")
    found = findings(view, records, history)
    cells = pd.DataFrame(
        {
            "Claim": [f'"{finding.quote}"' for finding in found],
            "Our criterion": [finding.criterion for finding in found],
            "Ours (%; differences in points)": [_figures(finding) for finding in found],
            "Verdict": [finding.verdict for finding in found],
        }
    )
    arms = tuple(dict.fromkeys(arm for claim in view.claims for arm in claim.arms))
    summary = summarise(view, arms, records, costs)
    about = (*privacy_notes(summary, joint), *data_notes(summary))
    notes = (*NOTES, *view.notes, _interval_note(found, summary), *about)
    return Table(view.title, cells, cells.columns, notes, _raw(found))


def _figures(finding: Finding) -> str:
    compared = finding.comparisons
    shown = [comparison.text() for comparison in compared]
    if len(compared) > WRITTEN_OUT:
        clear = sum(comparison.difference.low > 0 for comparison in compared)
        shown = [f"{clear} of {len(compared)} differences above 0; the smallest lower end: {weakest(compared).text()}"]
    return "; ".join([*finding.accuracies, *shown])


def _interval_note(found: list[Finding], summary: pd.DataFrame) -> str:
    seeds = sorted({comparison.difference.n for finding in found for comparison in finding.comparisons})
    images, everything = (distinct(summary[size], thousands, " or ") for size in ("n_test", "n_test_all"))
    kinds = []
    if seeds[0] == 1:
        kinds.append("Newcombe's from two binomial fractions with one seed, as if their images were independent")
    if seeds[-1] > 1:
        kinds.append("Student's t over the differences of each seed with several")
    number = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    return (
        f"Differences: n = {number}; final accuracy on {everything} images, that of an epoch or round on the "
        f"first {images}; [a, b] is the 95 % interval: {'; '.join(kinds)}."
    )


def _raw(found: list[Finding]) -> pd.DataFrame:
    rows = [
        {"claim": number, "quote": finding.quote, "verdict": finding.verdict}
        | {"larger": comparison.larger, "smaller": comparison.smaller, **asdict(comparison.difference)}
        for number, finding in enumerate(found, start=1)
        for comparison in finding.comparisons
    ]
    return pd.DataFrame(rows).rename(columns={"value": "difference", "n": "seeds", "kind": "interval"})
