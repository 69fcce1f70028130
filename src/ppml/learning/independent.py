"""Independent training: one model per owner, without communication. A centralized training has one owner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.evaluation import evaluate
from ppml.learning.learner import TrainingDiverged, no_op
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.learning.sequential import CohortTrainer
from ppml.randomness import Randomness

Report = Callable[[HistoryRow], None]


def train_independently(
    models: Sequence[nn.Module],
    cohort: CohortTrainer,
    owned: Sequence[Examples],
    test: Examples,
    rng: Randomness,
    report: Report,
    every: int = 1,
) -> TrainingResult:
    """Train one model for each owner.

    Parameters
    ----------
    models : sequence of nn.Module
        One model per owner, all with the same initial weights; trained in place.
    cohort : CohortTrainer
        Trains the models.
    owned : sequence of Examples
        Examples of each owner.
    test : Examples
        Evaluation examples for the history.
    rng : Randomness
        Owner ``k`` has the seed ``rng.party("client", k)``.
    report : callable
        Called with each row of a single owner after its epoch, and with the mean rows of several owners at the end.
    every : int
        Epochs between rows of the history; the last epoch always has a row.

    Raises
    ------
    TrainingDiverged
        A training loss, a weight or the loss on ``test`` is not finite.
    """
    seeds = [rng.party("client", client) for client in range(len(owned))]
    names = [f"client {client}: " if len(owned) > 1 else "" for client in range(len(owned))]
    histories = [
        _History(model, test, every, report if len(owned) == 1 else no_op, name)
        for model, name in zip(models, names, strict=True)
    ]
    events = cohort.fit(models, owned, seeds, [history.after_epoch for history in histories])
    for history, executed in zip(histories, events, strict=True):
        try:
            # A privacy budget may end the training before the last planned epoch.
            history.add_row()
        except TrainingDiverged as error:
            error.events = executed
            raise
    if len(owned) == 1:
        return TrainingResult(list(models), histories[0].rows, events)
    means = [_mean(rows) for rows in zip(*(history.rows for history in histories), strict=True)]
    for row in means:
        report(row)
    return TrainingResult(list(models), means, events)


class _History:
    """The history rows of one owner."""

    def __init__(self, model: nn.Module, test: Examples, every: int, report: Report, name: str) -> None:
        self.rows: list[HistoryRow] = []
        self._name = name
        self._model, self._test, self._every, self._report = model, test, every, report
        self._ended: tuple[int, float | None] | None = None

    def after_epoch(self, epoch: int, loss: float | None) -> None:
        """Store the epoch, and add a row at the configured interval."""
        self._ended = epoch, loss
        if epoch % self._every == 0:
            self.add_row()

    def add_row(self) -> None:
        """Add a row for the last epoch, unless it has one."""
        if self._ended is not None:
            row = HistoryRow(*self._ended, *evaluate(self._model, self._test))
            if not math.isfinite(row.loss):
                raise TrainingDiverged(
                    f"{self._name}the loss on the evaluation examples is not finite after epoch {row.step}"
                )
            self.rows.append(row)
            self._report(row)
            self._ended = None


def _mean(rows: Sequence[HistoryRow]) -> HistoryRow:
    losses = [row.train_loss for row in rows if row.train_loss is not None]
    return HistoryRow(
        rows[0].step,
        float(np.mean(losses)) if losses else None,
        float(np.mean([row.loss for row in rows])),
        float(np.mean([row.accuracy for row in rows])),
    )
