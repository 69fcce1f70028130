"""The one walk over the records that every learner does; what a step is differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.augmentation import Augmentation
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged
from ppml.learning.training_window import Span, learning_rate
from ppml.randomness import Randomness


def walk(
    model: nn.Module,
    records: Examples,
    settings: Settings,
    *,
    batches: Callable[[], Iterable[torch.Tensor]],
    steps: int,
    step: Callable[[torch.Tensor, torch.Tensor], float | None],
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
        Takes images and labels, does one step and returns the sum of the losses; None where it stays untold.
    groups : list of dict
        The optimiser's parameter groups.
    private : bool
        Whether the steps return no loss. Weights, which have noise, are then all that decides whether the training
        goes on.
    most_steps : int or None
        Stop after so many steps, within an epoch if need be, which then counts as one; None: take all.

    Raises
    ------
    TrainingDiverged
        The loss of a step, or a weight after the last one, is not finite; under privacy: a weight after any step.
        ``model`` then has the weights again that the last epoch with a finite loss in its first step began with; under
        privacy: the last one that began with finite weights.
    """
    augment = Augmentation(records, settings.shift, settings.deformation, rng)
    good, done = Weights(model, 0), 0
    for epoch in range(1, settings.epochs + 1):
        model.train()
        total, seen = 0.0, 0
        if private and finite(model):
            good = Weights(model, done)
        for number, index in enumerate(batches()):
            if done == most_steps:
                break
            position = span.at((epoch - 1 + number / steps) / settings.epochs)
            for group in groups:
                group["lr"] = learning_rate(settings.learning_rate, settings.decay, position)
            # Without privacy the first records of an epoch tell whether the weights that it starts with are good.
            candidate = good if private or seen or not len(index) else Weights(model, done)
            images, labels = chosen_images(records, index), records.labels[index]
            loss = step(augment(images, index), labels)
            done += 1
            # The effect of the last step shows in no loss.
            last = done == most_steps or done == settings.epochs * steps
            wrong = None
            if loss is not None and not math.isfinite(loss):
                wrong = "the loss"
            elif (private or last) and not finite(model):
                wrong = "a weight"
            if wrong:
                good.restore(model)
                raise TrainingDiverged(
                    f"{wrong} is not finite in step {done} of {settings.epochs * steps}, epoch {epoch} of "
                    f"{settings.epochs}; the model has its weights after step {good.step} again",
                    step=done,
                    restored=good.step,
                    model=model,
                )
            good = candidate
            total += loss or 0.0
            seen += len(index)
        after_epoch(epoch, None if private else total / seen)
        if done == most_steps:
            return


def finite(model: nn.Module) -> bool:
    """Return whether every weight of ``model`` is a number."""
    # Twenty times as fast as a look at each value, which is written down; both bounds are NaN where a value is.
    bounds = [torch.stack(value.detach().aminmax()) for value in model.parameters() if value.numel()]
    return all(bool(pair.isfinite().all()) for pair in bounds)


def chosen_images(records: Examples, index: torch.Tensor) -> torch.Tensor:
    """Return the images at the positions ``index``, without a copy where these are all of them in order.

    The copy takes as long as a full-batch step of a linear model.
    """
    everything = torch.arange(len(records), device=index.device)
    return records.images if torch.equal(index, everything) else records.images[index]


class Weights:
    """A copy of the weights of a model.

    Parameters
    ----------
    model : nn.Module
        Whose weights these are.
    step : int
        After how many steps it had them.
    """

    def __init__(self, model: nn.Module, step: int) -> None:
        self.step = step
        self._values = {name: value.clone() for name, value in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Give the weights back to ``model``."""
        model.load_state_dict(self._values)
