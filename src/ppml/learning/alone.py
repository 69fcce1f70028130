"""Owners who train without each other: one who holds everything, or each client for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.evaluation import evaluate
from ppml.learning.learner import LocalLearner
from ppml.learning.outcome import HistoryRow, Outcome
from ppml.learning.schedule import Span
from ppml.randomness import Randomness

Report = Callable[[HistoryRow], None]


def train_alone(
    build: Callable[[], nn.Module],
    learners: Sequence[LocalLearner],
    owned: Sequence[Examples],
    test: Examples,
    rng: Randomness,
    report: Report,
    limits: Sequence[int | None] | None = None,
) -> Outcome:
    """Train one model for each owner from the same initial weights.

    Parameters
    ----------
    build : callable
        Returns a new model with the common initial weights.
    learners, owned : sequences of equal length
        Each owner's learner and records.
    test : Examples
        What the history is measured on.
    rng : Randomness
        Owner ``k`` draws from ``rng.child("client", k)``.
    report : callable
        Gets each epoch of a single owner as it ends, and the mean over several owners at the end.
    limits : sequence of int or None
        How many steps each owner's privacy budget allows, None for all; None where there are no budgets.
    """
    models, events, histories = [], [], []
    limits = limits or [None] * len(owned)
    for client, (learner, records, limit) in enumerate(zip(learners, owned, limits, strict=True)):
        model = build()
        rows: list[HistoryRow] = []

        def after_epoch(
            epoch: int, loss: float | None, model: nn.Module = model, rows: list[HistoryRow] = rows
        ) -> None:
            rows.append(HistoryRow(epoch, loss, *evaluate(model, test)))
            if len(owned) == 1:
                report(rows[-1])

        stretch = rng.child("client", client)
        events.append(learner.fit(model, records, span=Span(), rng=stretch, after_epoch=after_epoch, most_steps=limit))
        models.append(model)
        histories.append(rows)
    if len(owned) > 1:
        history = [_mean(rows) for rows in zip(*histories, strict=True)]
        for row in history:
            report(row)
    else:
        history = histories[0]
    return Outcome(models, history, events)


def _mean(rows: Sequence[HistoryRow]) -> HistoryRow:
    losses = [row.train_loss for row in rows if row.train_loss is not None]
    return HistoryRow(
        rows[0].step,
        float(np.mean(losses)) if losses else None,
        float(np.mean([row.loss for row in rows])),
        float(np.mean([row.accuracy for row in rows])),
    )
