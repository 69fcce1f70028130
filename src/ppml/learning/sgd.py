"""Stochastic gradient descent without privacy."""

from __future__ import annotations

import math

import torch
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.gradient_correction import NO_CORRECTION, GradientCorrection
from ppml.learning.learner import AfterEpoch, Settings, no_op
from ppml.learning.loop import run_epochs
from ppml.learning.loss import cross_entropies
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness


class SgdLearner:
    """SGD with momentum on shuffled mini-batches.

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
        examples: Examples,
        *,
        window: TrainingWindow,
        rng: Randomness,
        after_epoch: AfterEpoch = no_op,
        correction: GradientCorrection = NO_CORRECTION,
        affordable_steps: int | None = None,
    ) -> tuple[MechanismEvent, ...]:
        """Train ``model`` in place; see :class:`~ppml.learning.learner.LocalLearner`.

        Raises
        ------
        TrainingDiverged
            The loss is not finite.
        """
        settings = self.settings
        batch_size = len(examples) if settings.batch_size == "all" else settings.batch_size
        # Convolutions on a CPU are about twice as fast in this memory format.
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=settings.learning_rate, momentum=settings.momentum, fused=True
        )
        order = rng.child("order").torch()
        parameters = list(model.parameters())

        def step(images: torch.Tensor, labels: torch.Tensor) -> float:
            optimizer.zero_grad()
            loss = cross_entropies(model(images), labels).mean()
            loss.backward()
            correction.add_to_gradients(parameters)
            optimizer.step()
            return loss.item() * len(labels)

        run_epochs(
            model,
            examples,
            settings,
            batches=lambda: torch.randperm(len(examples), generator=order).split(batch_size),
            steps=math.ceil(len(examples) / batch_size),
            step=step,
            groups=optimizer.param_groups,
            window=window,
            rng=rng,
            after_epoch=after_epoch,
            private=False,
            affordable_steps=affordable_steps,
        )
        model.to(memory_format=torch.contiguous_format)
        return ()
