"""The table of claims: quotation, our criterion, our numbers, a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import pandas as pd

from ppml.config.experiment import Claim
from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.footnotes import data_notes, privacy_notes
from ppml.reporting.formatting import distinct, percent, thousands
from ppml.reporting.registry import table
from ppml.reporting.statistics import Difference, difference
from ppml.reporting.summaries import ArmResult, rows_for_arm, summarise
from ppml.reporting.table import Table

Verdict = Literal["held", "not held", "undecided"]

KEPT = 0.9
"""Least fraction of the accuracy without privacy that counts as a balance; no paper defines one."""

FINAL = None
"""The step of the final accuracy, on all test images; that of an epoch or round is on the first ones."""

WRITTEN_OUT = 3
"""Largest number of comparisons in a cell; of more, the cell has the weakest."""

NOTES = (
    "The quotations are from the paper; the criteria are ours, with the meaning of a balance.",
    "Held: every difference of the criterion has a 95 % interval above 0; not held: one has it below 0; undecided "
    "otherwise. The intervals are not corrected for their number.",
)


@dataclass(frozen=True)
class Comparison:
    """Two accuracies by their names for readers, and the first minus the second, which a claim says is above 0."""

    larger: str
    smaller: str
    difference: Difference

    def text(self) -> str:
        """Return the comparison in percentage points."""
        return f"{self.larger} over {self.smaller}: {self.difference.points(1)}"


@dataclass(frozen=True)
class Finding:
    """A claim, its criterion, the accuracies in percent, and the comparisons that must all be as claimed."""

    quote: str
    criterion: str
    accuracies: list[str]
    comparisons: list[Comparison]

    @property
    def verdict(self) -> Verdict:
        """``held`` if every interval is above 0, ``not held`` if one is below 0, else ``undecided``.

        "All are above 0" is a test of the whole claim at the level of each; "one is below 0" is not corrected for the
        number of comparisons.
        """
        if all(comparison.difference.low > 0 for comparison in self.comparisons):
            return "held"
        return "not held" if any(comparison.difference.high < 0 for comparison in self.comparisons) else "undecided"


@dataclass(frozen=True)
class Runs:
    """The results and histories of the arms of one claim."""

    label: Callable[[str], str]
    private: list[str]
    """The private arms, the smallest epsilon first."""
    public: str
    """The arm without privacy."""
    steps: list[int]
    """The epochs or rounds in the history of all arms, from 1."""
    unit: str
    records: pd.DataFrame
    history: pd.DataFrame

    @property
    def ordered(self) -> list[str]:
        """All arms, from the smallest epsilon to none."""
        return [*self.private, self.public]

    def accuracy(self, arm: str, step: int | None) -> pd.Series:
        """Return the accuracy after a step, or the final one, by seed."""
        if step is FINAL:
            return rows_for_arm(self.records, arm).set_index("seed")["accuracy_all"]
        rows = rows_for_arm(self.history, arm)
        return rows[rows["step"] == step].set_index("seed")["accuracy"]

    def means(self, *steps: int | None) -> list[str]:
        """Return a text for each arm with its mean accuracies after ``steps``."""
        return [
            f"{self.label(arm)}: {' to '.join(percent(self.accuracy(arm, step).mean()) for step in steps)}"
            for arm in self.ordered
        ]

    def difference(
        self, larger: tuple[str, int | None], smaller: tuple[str, int | None], factor: float = 1.0
    ) -> Difference:
        """Compare two accuracies, each of an arm and a step, over their common seeds; ``factor`` is of the second."""
        first, second = self.accuracy(*larger), self.accuracy(*smaller)
        seeds = [seed for seed in first.index if seed in second.index]
        if not seeds:
            raise UserError("records.csv: two arms of a claim have no seed in common; run the workflow again")
        images = "n_test_all" if larger[1] is FINAL else "n_test"
        trials = int(rows_for_arm(self.records, self.public)[images].iloc[0])
        return difference(first[seeds].tolist(), second[seeds].tolist(), trials=trials, factor=factor)

    def compare(self, larger: str, smaller: str, step: int | None) -> Comparison:
        """Compare two arms after the same step."""
        after = "" if step is FINAL else f", {self.unit} {step}"
        found = self.difference((larger, step), (smaller, step))
        return Comparison(self.label(larger), self.label(smaller) + after, found)


Tested = tuple[str, list[str], list[Comparison]]
"""A criterion in words, the accuracies in percent, and the comparisons."""


def rises_with_epsilon(runs: Runs) -> Tested:
    """Test that each arm is more accurate than the arm of the next smaller epsilon."""
    criterion = "accuracy on all test images: each ε above the next smaller one, no privacy above the largest"
    compared = [runs.compare(larger, smaller, FINAL) for smaller, larger in pairwise(runs.ordered)]
    return criterion, runs.means(FINAL), compared


def starts_higher(runs: Runs) -> Tested:
    """Test that the arm without privacy is ahead after the first step."""
    first = runs.steps[0]
    criterion = f"accuracy after {runs.unit} {first}: no privacy above every ε"
    return criterion, runs.means(first), [runs.compare(runs.public, arm, first) for arm in runs.private]


def trains_easier(runs: Runs) -> Tested:
    """Test that the arm without privacy is ahead after every step."""
    criterion = f"accuracy after each {runs.unit}: no privacy above every ε"
    return criterion, [], [runs.compare(runs.public, arm, step) for arm in runs.private for step in runs.steps]


def starts_low_and_improves(runs: Runs) -> Tested:
    """Test that a smaller epsilon is less accurate after the first step, and that every private arm then improves."""
    first, last, unit = runs.steps[0], runs.steps[-1], runs.unit
    criterion = (
        f"accuracy after {unit} {first}: each ε above the next smaller one; of each ε, after {unit} {last}: above "
        "that. The size of the gain is shown, not judged"
    )
    lower = [runs.compare(larger, smaller, first) for smaller, larger in pairwise(runs.private)]
    gains = [
        Comparison(f"{runs.label(arm)}, {unit} {last}", f"{unit} {first}", runs.difference((arm, last), (arm, first)))
        for arm in runs.private
    ]
    return criterion, runs.means(first, last), [*lower, *gains]


def keeps_accuracy(runs: Runs) -> Tested:
    """Test that the smallest epsilon keeps at least :data:`KEPT` of the accuracy without privacy."""
    criterion = (
        f"accuracy on all test images: the smallest ε keeps at least {100 * KEPT:g} % of the accuracy without privacy"
    )
    private, public = (
        ArmResult(arm, runs.label(arm), rows_for_arm(runs.records, arm), "accuracy")
        for arm in (runs.private[0], runs.public)
    )
    shown = [
        f"{one.label}: {percent(one.score.mean)} [{percent(one.score.low)}, {percent(one.score.high)}]"
        for one in (private, public)
    ]
    kept = f"kept: {percent(private.score.mean / public.score.mean, 1)} %"
    value = runs.difference((private.arm, FINAL), (public.arm, FINAL), KEPT)
    compared = Comparison(private.label, f"{KEPT:g}\N{MULTIPLICATION SIGN} {public.label}", value)
    return criterion, [*shown, kept], [compared]


CRITERIA = {
    test.__name__: test
    for test in (rises_with_epsilon, starts_higher, trains_easier, starts_low_and_improves, keeps_accuracy)
}
"""The tests of a claim, by their names in the configuration."""


def findings(view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> list[Finding]:
    """Test each claim of ``view``, in order.

    Raises
    ------
    UserError
        An arm has no result rows or no history, the number of arms without privacy is not 1, or two arms have no seed,
        no epoch or no test images in common.
    """
    return [
        Finding(claim.quote, *CRITERIA[claim.criterion](_runs(claim, view, records, history))) for claim in view.claims
    ]


def _runs(claim: Claim, view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> Runs:
    require_arms(records, claim.arms, "records.csv")
    require_arms(history, claim.arms, "history.csv")
    mine, course = (frame[frame["arm"].isin(claim.arms)] for frame in (records, history))
    for column in ("dataset", "n_test", "n_test_all", "evaluated_on"):
        if mine[column].nunique() > 1:
            raise UserError(f"records.csv: {column} differs between {', '.join(claim.arms)}: nothing to compare")
    if course["unit"].nunique() > 1:
        raise UserError(f"history.csv: {', '.join(claim.arms)} do not all count epochs or all rounds")
    largest = mine.groupby("arm")["epsilon"].max()
    private = sorted((arm for arm in claim.arms if not math.isnan(largest[arm])), key=lambda arm: float(largest[arm]))
    public = [arm for arm in claim.arms if math.isnan(largest[arm])]
    if len(public) != 1:
        raise UserError(f"claims: {len(public)} arms without privacy among {', '.join(claim.arms)}; one is needed")
    common = set.intersection(*(set(steps) for _, steps in course.groupby("arm")["step"]))
    steps = sorted(int(step) for step in common if step > 0)
    if not steps:
        raise UserError(f"history.csv: {', '.join(claim.arms)} have no epoch or round in common")
    return Runs(view.label, private, public[0], steps, str(course["unit"].iloc[0]), records, history)


@table("claims", joint_arms="claimed")
def claims_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, joint: pd.DataFrame, history: pd.DataFrame
) -> Table:
    """Return the table with a row for each claim.

    Returns
    -------
    Table
        ``raw`` has a row for each comparison.
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
    about = (*privacy_notes(summary, joint), *data_notes(view, summary))
    notes = (*NOTES, *view.notes, _interval_note(found, summary), *about)
    return Table(view.title, cells, cells.columns, notes, _raw(found))


def _figures(finding: Finding) -> str:
    compared = finding.comparisons
    shown = [comparison.text() for comparison in compared]
    if len(compared) > WRITTEN_OUT:
        clear = sum(comparison.difference.low > 0 for comparison in compared)
        weakest = min(compared, key=lambda comparison: comparison.difference.low)
        shown = [f"{clear} of {len(compared)} differences above 0; the smallest lower end: {weakest.text()}"]
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
        f"Differences: n = {number}; final accuracy on {everything} examples, that of an epoch or round on the "
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
