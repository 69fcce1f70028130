"""Tests of the papers' claims on our numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import pandas as pd

from ppml.config.experiment import Claim
from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.formatting import percent
from ppml.reporting.statistics import Difference, difference, estimate
from ppml.reporting.summaries import rows_for_arm

Verdict = Literal["held", "not held", "undecided"]

KEPT = 0.9
"""Least fraction of the accuracy without privacy that counts as a balance; no paper defines one."""


@dataclass(frozen=True)
class Comparison:
    """Two accuracies of a claim, the larger one first.

    Parameters
    ----------
    larger, smaller : str
        Names of the two, for readers.
    difference : Difference
        Accuracy (fraction) of ``larger`` minus that of ``smaller``; the claim says that it is above 0.
    """

    larger: str
    smaller: str
    difference: Difference

    def text(self) -> str:
        """Return the comparison in percentage points."""
        points = (100 * end for end in (self.difference.value, self.difference.low, self.difference.high))
        value, low, high = (f"{point:+.1f}" for point in points)
        return f"{self.larger} over {self.smaller}: {value} [{low}, {high}]"


@dataclass(frozen=True)
class Finding:
    """The result of a claim.

    Parameters
    ----------
    quote : str
        Quotation.
    criterion : str
        Tested statement.
    accuracies : tuple of str
        Accuracies in percent.
    comparisons : tuple of Comparison
        Comparisons that must all be as claimed.
    """

    quote: str
    criterion: str
    accuracies: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

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
    """The results and histories of the arms of one claim.

    Parameters
    ----------
    label : callable
        Function from the name of an arm to its label.
    private : tuple of str
        Private arms, the smallest epsilon first.
    public : str
        The arm without privacy.
    """

    label: Callable[[str], str]
    private: tuple[str, ...]
    public: str
    records: pd.DataFrame
    history: pd.DataFrame

    @property
    def ordered(self) -> tuple[str, ...]:
        """All arms, from the smallest epsilon to none."""
        return (*self.private, self.public)

    def final_accuracy(self, arm: str) -> pd.Series:
        """Return the accuracy on all test images by seed."""
        return rows_for_arm(self.records, arm).set_index("seed")["accuracy_all"]

    def accuracy_at(self, arm: str, step: int) -> pd.Series:
        """Return the accuracy after an epoch or round by seed."""
        rows = rows_for_arm(self.history, arm)
        return rows[rows["step"] == step].set_index("seed")["accuracy"]

    def accuracy_with_interval(self, arm: str) -> str:
        """Return the accuracy on all test images with its 95 % interval."""
        result = estimate(self.final_accuracy(arm), trials=self.images("n_test_all"))
        return f"{self.label(arm)}: {percent(result.mean)} [{percent(result.low)}, {percent(result.high)}]"

    def steps(self) -> list[int]:
        """Return the epochs or rounds in the history of all arms, from 1."""
        common = set.intersection(*(set(rows_for_arm(self.history, arm)["step"]) for arm in self.ordered))
        return sorted(int(step) for step in common if step > 0)

    def unit(self) -> str:
        """Return the unit of a step, epoch or round."""
        return str(rows_for_arm(self.history, self.public)["unit"].iloc[0])

    def images(self, column: str) -> int:
        """Return the number of test images behind ``accuracy_all`` (``n_test_all``) or the history (``n_test``)."""
        return int(rows_for_arm(self.records, self.public)[column].iloc[0])

    def compare_final(self, larger: str, smaller: str) -> Comparison:
        """Compare the final accuracies of two arms."""
        value = _paired(self.final_accuracy(larger), self.final_accuracy(smaller), self.images("n_test_all"))
        return Comparison(self.label(larger), self.label(smaller), value)

    def compare_at(self, larger: str, smaller: str, step: int) -> Comparison:
        """Compare two arms after the same step."""
        value = _paired(self.accuracy_at(larger, step), self.accuracy_at(smaller, step), self.images("n_test"))
        return Comparison(self.label(larger), f"{self.label(smaller)}, {self.unit()} {step}", value)


def rises_with_epsilon(runs: Runs) -> tuple[str, list[str], list[Comparison]]:
    """Test that each arm is more accurate than the arm of the next smaller epsilon."""
    criterion = "accuracy on all test images: each ε above the next smaller one, no privacy above the largest"
    shown = [f"{runs.label(arm)}: {percent(runs.final_accuracy(arm).mean())}" for arm in runs.ordered]
    return criterion, shown, [runs.compare_final(larger, smaller) for smaller, larger in pairwise(runs.ordered)]


def starts_higher(runs: Runs) -> tuple[str, list[str], list[Comparison]]:
    """Test that the arm without privacy is ahead after the first step."""
    first = runs.steps()[0]
    shown = [f"{runs.label(arm)}: {percent(runs.accuracy_at(arm, first).mean())}" for arm in runs.ordered]
    criterion = f"accuracy after {runs.unit()} {first}: no privacy above every ε"
    return criterion, shown, [runs.compare_at(runs.public, arm, first) for arm in runs.private]


def trains_easier(runs: Runs) -> tuple[str, list[str], list[Comparison]]:
    """Test that the arm without privacy is ahead after every step."""
    criterion = f"accuracy after each {runs.unit()}: no privacy above every ε"
    compared = [runs.compare_at(runs.public, arm, step) for arm in runs.private for step in runs.steps()]
    return criterion, [], compared


def starts_low_and_improves(runs: Runs) -> tuple[str, list[str], list[Comparison]]:
    """Test that a smaller epsilon is less accurate after the first step, and that every private arm then improves."""
    first, last = runs.steps()[0], runs.steps()[-1]
    unit = runs.unit()
    criterion = (
        f"accuracy after {unit} {first}: each ε above the next smaller one; of each ε, after {unit} {last}: above "
        "that. The size of the gain is shown, not judged"
    )
    shown = [
        f"{runs.label(arm)}: {' to '.join(percent(runs.accuracy_at(arm, step).mean()) for step in (first, last))}"
        for arm in runs.ordered
    ]
    lower = [runs.compare_at(larger, smaller, first) for smaller, larger in pairwise(runs.private)]
    gains = [
        Comparison(
            f"{runs.label(arm)}, {unit} {last}",
            f"{unit} {first}",
            _paired(runs.accuracy_at(arm, last), runs.accuracy_at(arm, first), runs.images("n_test")),
        )
        for arm in runs.private
    ]
    return criterion, shown, [*lower, *gains]


def keeps_accuracy(runs: Runs) -> tuple[str, list[str], list[Comparison]]:
    """Test that the smallest epsilon keeps at least :data:`KEPT` of the accuracy without privacy."""
    arm = runs.private[0]
    ours, theirs = runs.final_accuracy(arm), runs.final_accuracy(runs.public)
    shown = [
        runs.accuracy_with_interval(arm),
        runs.accuracy_with_interval(runs.public),
        f"kept: {percent(ours.mean() / theirs.mean(), 1)} %",
    ]
    value = _paired(ours, theirs, runs.images("n_test_all"), KEPT)
    compared = Comparison(runs.label(arm), f"{KEPT:g}\N{MULTIPLICATION SIGN} {runs.label(runs.public)}", value)
    criterion = (
        f"accuracy on all test images: the smallest ε keeps at least {100 * KEPT:g} % of the accuracy without privacy"
    )
    return criterion, shown, [compared]


CRITERIA = {
    "rises_with_epsilon": rises_with_epsilon,
    "starts_higher": starts_higher,
    "trains_easier": trains_easier,
    "starts_low_and_improves": starts_low_and_improves,
    "keeps_accuracy": keeps_accuracy,
}


def findings(view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> list[Finding]:
    """Test each claim of ``view`` on the collected numbers.

    Parameters
    ----------
    view : Selection
        The claims, in order.
    records : pandas.DataFrame
        One row for each arm and seed.
    history : pandas.DataFrame
        One row for each arm, seed and epoch or round.

    Raises
    ------
    UserError
        An arm has no result rows or no history, the number of arms without privacy is not 1, or two arms have no seed,
        no epoch or no test images in common.
    """
    found = []
    for claim in view.claims:
        criterion, shown, compared = CRITERIA[claim.criterion](_runs(claim, view, records, history))
        found.append(Finding(claim.quote, criterion, tuple(shown), tuple(compared)))
    return found


def _runs(claim: Claim, view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> Runs:
    require_arms(records, claim.arms, "records.csv")
    require_arms(history, claim.arms, "history.csv")
    mine = records[records["arm"].isin(claim.arms)]
    for column in ("dataset", "n_test", "n_test_all", "evaluated_on"):
        if mine[column].nunique() > 1:
            raise UserError(f"records.csv: {column} differs between {', '.join(claim.arms)}: nothing to compare")
    if history[history["arm"].isin(claim.arms)]["unit"].nunique() > 1:
        raise UserError(f"history.csv: {', '.join(claim.arms)} do not all count epochs or all rounds")
    largest = mine.groupby("arm")["epsilon"].max()
    private = sorted((arm for arm in claim.arms if not math.isnan(largest[arm])), key=lambda arm: float(largest[arm]))
    public = [arm for arm in claim.arms if math.isnan(largest[arm])]
    if len(public) != 1:
        raise UserError(f"claims: {len(public)} arms without privacy among {', '.join(claim.arms)}; one is needed")
    runs = Runs(view.label, tuple(private), public[0], records, history)
    if not runs.steps():
        raise UserError(f"history.csv: {', '.join(claim.arms)} have no epoch or round in common")
    return runs


def _paired(first: pd.Series, second: pd.Series, trials: int, factor: float = 1.0) -> Difference:
    seeds = [seed for seed in first.index if seed in second.index]
    if not seeds:
        raise UserError("records.csv: two arms of a claim have no seed in common; run the workflow again")
    return difference(first[seeds].tolist(), second[seeds].tolist(), trials=trials, factor=factor)


def weakest(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the comparison with the smallest lower end."""
    return min(comparisons, key=lambda comparison: comparison.difference.low)
