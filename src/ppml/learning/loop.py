"""The one walk over the records that every learner does; what a step is differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.augmentation import shift_batch
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged
from ppml.learning.schedule import Span, learning_rate
from ppml.randomness import Randomness


def walk(
    model: nn.Module,
    records: Examples,
    settings: Settings,
    *,
    batches: Callable[[], Iterable[torch.Tensor]],
    steps: int,
    step: Callable[[torch.Tensor, torch.Tensor], float],
    groups: list[dict[str, Any]],
    span: Span,
    rng: Randomness,
    after_epoch: AfterEpoch,
    private: bool,
    most_steps: int | None = None,
) -> None:
    """Take every step of every epoch, each at the learning rate that its place in the whole training has.

    Parameters
    ----------
    model : nn.Module
        In training mode when a step is taken.
    batches : callable
        Returns the positions of the records of each step of one epoch, int64; called once an epoch.
    steps : int
        Steps of an epoch.
    step : callable
        Takes images and labels, does one step and returns the sum of the losses.
    groups : list of dict
        The optimiser's parameter groups.
    private : bool
        Whether the training loss stays untold.
    most_steps : int or None
        Stop after so many steps, within an epoch if need be, which then counts as one; None: take all.

    Raises
    ------
    TrainingDiverged
        The loss is not finite.
    """
    shifts = rng.child("shift").torch()
    taken = 0
    for epoch in range(1, settings.epochs + 1):
        model.train()
        total, seen = 0.0, 0
        for number, index in enumerate(batches()):
            if taken == most_steps:
                break
            position = span.at((epoch - 1 + number / steps) / settings.epochs)
            for group in groups:
                group["lr"] = learning_rate(settings.learning_rate, settings.decay, position)
            total += step(shift_batch(records.images[index], settings.shift, shifts), records.labels[index])
            seen += len(index)
            taken += 1
        if not math.isfinite(total):
            raise TrainingDiverged(f"the loss is not finite in epoch {epoch} of {settings.epochs}")
        after_epoch(epoch, None if private else total / seen)
        if taken == most_steps:
            return
