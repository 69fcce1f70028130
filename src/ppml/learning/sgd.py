"""Stochastic gradient descent without privacy."""

from __future__ import annotations

import math

import torch
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.gradient_correction import NO_PULL, Pull
from ppml.learning.learner import AfterEpoch, Settings, ignore_epoch
from ppml.learning.loop import walk
from ppml.learning.loss import example_losses
from ppml.learning.training_window import Span
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
        pull: Pull = NO_PULL,
        most_steps: int | None = None,
    ) -> tuple[MechanismEvent, ...]:
        """Train ``model`` in place; see :class:`~ppml.learning.learner.LocalLearner`.

        Raises
        ------
        TrainingDiverged
            The loss is not finite.
        """
        settings = self.settings
        batch_size = len(records) if settings.batch_size == "all" else settings.batch_size
        # Convolutions on a CPU are about twice as fast in this order.
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=settings.learning_rate, momentum=settings.momentum, fused=True
        )
        order = rng.child("order").torch()
        parameters = list(model.parameters())

        def step(images: torch.Tensor, labels: torch.Tensor) -> float:
            optimizer.zero_grad()
            loss = example_losses(model(images), labels).mean()
            loss.backward()
            pull.adjust(parameters)
            optimizer.step()
            return loss.item() * len(labels)

        walk(
            model,
            records,
            settings,
            batches=lambda: torch.randperm(len(records), generator=order).split(batch_size),
            steps=math.ceil(len(records) / batch_size),
            step=step,
            groups=optimizer.param_groups,
            span=span,
            rng=rng,
            after_epoch=after_epoch,
            private=False,
            most_steps=most_steps,
        )
        model.to(memory_format=torch.contiguous_format)
        return ()
