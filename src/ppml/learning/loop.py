"""The training loop that all learners share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.augmentation import Augmentation
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged
from ppml.learning.training_window import TrainingWindow, learning_rate
from ppml.randomness import Randomness


def run_epochs(
    model: nn.Module,
    examples: Examples,
    settings: Settings,
    *,
    batches: Callable[[], Iterable[torch.Tensor]],
    steps: int,
    step: Callable[[torch.Tensor, torch.Tensor], float | None],
    groups: list[dict[str, Any]],
    window: TrainingWindow,
    rng: Randomness,
    after_epoch: AfterEpoch,
    private: bool,
    affordable_steps: int | None = None,
) -> None:
    """Run all steps of all epochs with the learning-rate schedule.

    Parameters
    ----------
    model : nn.Module
        In training mode during each step.
    batches : callable
        Returns the positions of the examples of each step of one epoch, int64; called once per epoch.
    steps : int
        Steps per epoch.
    step : callable
        Does one step on images and labels and returns the sum of the losses; None if the loss is private.
    groups : list of dict
        Parameter groups of the optimiser.
    private : bool
        True if the steps return no loss. The decision to continue then depends on the noisy weights only.
    affordable_steps : int or None
        The number of steps that the rest of a privacy budget allows: the training stops after it, if necessary within
        an epoch, which then counts as one. None: no budget.

    Raises
    ------
    TrainingDiverged
        The loss of a step, or a weight after the last step, is not finite; under privacy: a weight after any step.
        ``model`` then has the weights from the start of the last epoch whose first step had a finite loss; under
        privacy: of the last epoch that started with finite weights.
    """
    augment = Augmentation(examples, settings.shift, settings.deformation, rng)
    good, done = WeightSnapshot(model, 0), 0
    for epoch in range(1, settings.epochs + 1):
        model.train()
        total, seen = 0.0, 0
        if private and finite(model):
            good = WeightSnapshot(model, done)
        for number, index in enumerate(batches()):
            if done == affordable_steps:
                break
            position = window.at((epoch - 1 + number / steps) / settings.epochs)
            for group in groups:
                group["lr"] = learning_rate(settings.learning_rate, settings.learning_rate_schedule, position)
            # Without privacy the first loss of an epoch shows whether its initial weights are finite.
            candidate = good if private or seen or not len(index) else WeightSnapshot(model, done)
            images, labels = select_batch(examples, index), examples.labels[index]
            loss = step(augment(images, index), labels)
            done += 1
            # No later loss depends on the last step.
            last = done == affordable_steps or done == settings.epochs * steps
            non_finite = None
            if loss is not None and not math.isfinite(loss):
                non_finite = "the loss"
            elif (private or last) and not finite(model):
                non_finite = "a weight"
            if non_finite:
                good.restore(model)
                raise TrainingDiverged(
                    f"{non_finite} is not finite in step {done} of {settings.epochs * steps}, epoch {epoch} of "
                    f"{settings.epochs}; the model has its weights after step {good.step} again",
                    step=done,
                    restored=good.step,
                    model=model,
                )
            good = candidate
            total += loss or 0.0
            seen += len(index)
        after_epoch(epoch, None if private else total / seen)
        if done == affordable_steps:
            return


def finite(model: nn.Module) -> bool:
    """Return whether every weight of ``model`` is finite."""
    # 20 times as fast as isfinite on each value, which writes a mask. If a value is NaN, both bounds are NaN.
    bounds = [torch.stack(value.detach().aminmax()) for value in model.parameters() if value.numel()]
    return all(bool(pair.isfinite().all()) for pair in bounds)


def select_batch(examples: Examples, index: torch.Tensor) -> torch.Tensor:
    """Return the inputs at the positions ``index``, without a copy if ``index`` is all positions in order.

    The copy takes as long as a full-batch step of a linear model.
    """
    everything = torch.arange(len(examples), device=index.device)
    return examples.inputs if torch.equal(index, everything) else examples.inputs[index]


class WeightSnapshot:
    """A copy of the weights of a model.

    Parameters
    ----------
    model : nn.Module
        Source of the weights.
    step : int
        Number of steps before the copy.
    """

    def __init__(self, model: nn.Module, step: int) -> None:
        self.step = step
        self._values = {name: value.clone() for name, value in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Copy the weights back into ``model``."""
        model.load_state_dict(self._values)
