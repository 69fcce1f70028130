"""Owners who train without each other: one who holds everything, or each client for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.evaluation import evaluate
from ppml.learning.result import HistoryRow, Outcome
from ppml.learning.sequential import Cohort
from ppml.randomness import Randomness

Report = Callable[[HistoryRow], None]


def train_alone(
    models: Sequence[nn.Module],
    cohort: Cohort,
    owned: Sequence[Examples],
    test: Examples,
    rng: Randomness,
    report: Report,
    every: int = 1,
) -> Outcome:
    """Train one model for each owner.

    Parameters
    ----------
    models : sequence of nn.Module
        One for each owner, all with the same initial weights; they are trained in place.
    cohort : Cohort
        What trains the models.
    owned : sequence of Examples
        Each owner's records.
    test : Examples
        What the history is measured on.
    rng : Randomness
        Owner ``k`` has the seed ``rng.party("client", k)``.
    report : callable
        Gets each epoch of a single owner as it ends, and the mean over several owners at the end.
    every : int
        Epochs between rows of the history; the last epoch has one in any case.
    """
    stretches = [rng.party("client", client) for client in range(len(owned))]
    histories = [_History(model, test, every, report if len(owned) == 1 else _untold) for model in models]
    events = cohort.fit(models, owned, stretches, [history.after_epoch for history in histories])
    for history in histories:
        # A budget may have made this epoch the last.
        history.tell()
    if len(owned) == 1:
        return Outcome(list(models), histories[0].rows, events)
    means = [_mean(rows) for rows in zip(*(history.rows for history in histories), strict=True)]
    for row in means:
        report(row)
    return Outcome(list(models), means, events)


class _History:
    """What one owner's model comes to after every so many epochs, and after the last."""

    def __init__(self, model: nn.Module, test: Examples, every: int, report: Report) -> None:
        self.rows: list[HistoryRow] = []
        self._model, self._test, self._every, self._report = model, test, every, report
        self._ended: tuple[int, float | None] | None = None

    def after_epoch(self, epoch: int, loss: float | None) -> None:
        """Take note of an epoch; add a row if it is time for one."""
        self._ended = epoch, loss
        if epoch % self._every == 0:
            self.tell()

    def tell(self) -> None:
        """Add a row for the epoch that ended last, unless it has one."""
        if self._ended is not None:
            self.rows.append(HistoryRow(*self._ended, *evaluate(self._model, self._test)))
            self._report(self.rows[-1])
            self._ended = None


def _untold(row: HistoryRow) -> None:
    """Keep the row of one of several owners."""


def _mean(rows: Sequence[HistoryRow]) -> HistoryRow:
    losses = [row.train_loss for row in rows if row.train_loss is not None]
    return HistoryRow(
        rows[0].step,
        float(np.mean(losses)) if losses else None,
        float(np.mean([row.loss for row in rows])),
        float(np.mean([row.accuracy for row in rows])),
    )
