"""The table of claims: their words, how we read them, our numbers, a verdict."""

from __future__ import annotations

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.claims import Finding, findings, weakest
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import data_notes
from ppml.reporting.guarantee import privacy_notes
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

WRITTEN_OUT = 3
"""Up to so many comparisons each is written out; of more, the weakest."""

NOTES = (
    "The words are the paper's; how they are read is ours, and so is what counts as a balance.",
    "Held: every difference of the reading has a 95 % interval above 0; not held: one has it below 0; undecided "
    "otherwise. The intervals are not corrected for their number.",
)


@table(
    "claims",
    shows="a row for each claim, with its verdict",
    reads=("records", "costs", "joint", "history"),
    joint_arms="claimed",
)
def claims_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, joint: pd.DataFrame, history: pd.DataFrame
) -> Table:
    """Return the table with a row a claim.

    Parameters
    ----------
    view : Selection
        The claims, in the order of the rows.
    records, costs : pandas.DataFrame
        One row an arm and seed.
    joint : pandas.DataFrame
        The rows of joint.csv.
    history : pandas.DataFrame
        One row an arm, seed and epoch or round.

    Returns
    -------
    Table
        ``raw`` has a row a comparison.

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
            "Our reading": [finding.reading for finding in found],
            "Ours (%; differences in points)": [_figures(finding) for finding in found],
            "Verdict": [finding.verdict for finding in found],
        }
    )
    arms = tuple(dict.fromkeys(arm for claim in view.claims for arm in claim.arms))
    summary = summarise(view, arms, records, costs)
    notes = (
        *NOTES,
        *view.notes,
        _interval_note(found, summary),
        *privacy_notes(summary, joint),
        *data_notes(summary),
    )
    return Table(view.title, cells, frozenset(), notes, _raw(found))


def _figures(finding: Finding) -> str:
    compared = finding.comparisons
    if len(compared) <= WRITTEN_OUT:
        return "; ".join([*finding.accuracies, *(comparison.text() for comparison in compared)])
    clear = sum(comparison.difference.low > 0 for comparison in compared)
    least = f"{clear} of {len(compared)} differences above 0; the least sure: {weakest(compared).text()}"
    return "; ".join([*finding.accuracies, least])


def _interval_note(found: list[Finding], summary: pd.DataFrame) -> str:
    seeds = sorted({comparison.difference.n for finding in found for comparison in finding.comparisons})
    images = " or ".join(f"{size:,}" for size in dict.fromkeys(summary["n_test"]))
    everything = " or ".join(f"{size:,}" for size in dict.fromkeys(summary["n_test_all"]))
    kinds = []
    if seeds[0] == 1:
        kinds.append(
            "Newcombe's from two binomial shares where there is one seed, as if their images were not the same"
        )
    if seeds[-1] > 1:
        kinds.append("Student's t over the differences of each seed where there are several")
    number = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    return (
        f"Differences: n = {number}; final accuracy on {everything} images, that of an epoch or round on the "
        f"first {images}; [a, b] is the 95 % interval: {'; '.join(kinds)}."
    )


def _raw(found: list[Finding]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "claim": number,
                "quote": finding.quote,
                "verdict": finding.verdict,
                "larger": comparison.larger,
                "smaller": comparison.smaller,
                "difference": comparison.difference.value,
                "low": comparison.difference.low,
                "high": comparison.difference.high,
                "seeds": comparison.difference.n,
                "interval": comparison.difference.kind,
            }
            for number, finding in enumerate(found, start=1)
            for comparison in finding.comparisons
        ]
    )
