"""Stochastic gradient descent without privacy."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.augmentation import shift_batch
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged, ignore_epoch
from ppml.learning.schedule import Span, learning_rate
from ppml.randomness import Randomness


class SgdLearner:
    """Shuffled mini-batches and momentum.

    Parameters
    ----------
    settings : Settings
        Epochs, batch size and learning rate.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def fit(
        self,
        model: nn.Module,
        records: Examples,
        *,
        span: Span,
        rng: Randomness,
        after_epoch: AfterEpoch = ignore_epoch,
    ) -> tuple[MechanismEvent, ...]:
        """Train ``model`` in place; see :class:`~ppml.learning.learner.LocalLearner`.

        Raises
        ------
        TrainingDiverged
            The loss is not finite.
        """
        settings = self.settings
        # Convolutions on a CPU are about twice as fast in this order.
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
        order = rng.child("order").torch()
        shifts = rng.child("shift").torch()
        batches = math.ceil(len(records) / settings.batch_size)
        for epoch in range(1, settings.epochs + 1):
            model.train()
            total = 0.0
            shuffled = torch.randperm(len(records), generator=order).split(settings.batch_size)
            for step, index in enumerate(shuffled):
                position = span.at((epoch - 1 + step / batches) / settings.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(settings.learning_rate, settings.decay, position)
                images = shift_batch(records.images[index], settings.shift, shifts)
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(images), records.labels[index])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(index)
            if not math.isfinite(total):
                raise TrainingDiverged(f"the loss is {total} in epoch {epoch} of {settings.epochs}")
            after_epoch(epoch, total / len(records))
        model.to(memory_format=torch.contiguous_format)
        return ()
