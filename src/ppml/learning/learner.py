"""What every way of learning from records has in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.data.transforms.deformation import NO_DEFORMATION, Deformation
from ppml.learning.gradient_correction import NO_PULL, Pull
from ppml.learning.training_window import Span
from ppml.randomness import Randomness

AfterEpoch = Callable[[int, float | None], None]
"""Called after each epoch with its number, from 1, and the mean training loss (nats).

The loss is None under privacy: it is a statistic of private records that no noise covers.
"""


def ignore_epoch(epoch: int, loss: float | None) -> None:
    """Do nothing after an epoch."""


OnRelease = Callable[[Sequence[torch.Tensor]], None]
"""Gets the noisy gradient of a step, one tensor a parameter, divided by the expected batch size: what SGD gets."""


def ignore_release(gradients: Sequence[torch.Tensor]) -> None:
    """Do nothing with what the mechanism releases."""


@dataclass(frozen=True)
class Settings:
    """How a learner walks through its records.

    Parameters
    ----------
    epochs : int
        Passes over the records in one call.
    batch_size : int or "all"
        Records a step; under Poisson sampling, the expected number.
    learning_rate : float
        The peak, at the start of the training.
    momentum : float
        Of stochastic gradient descent; starts anew with each call.
    decay : {"linear", "constant"}
        How the learning rate falls over the whole training.
    shift : int
        Largest random shift of a batch, in pixels.
    deformation : Deformation
        How far each image is deformed at random.
    """

    epochs: int
    batch_size: int | Literal["all"]
    learning_rate: float
    momentum: float = 0.9
    decay: str = "linear"
    shift: int = 0
    deformation: Deformation = NO_DEFORMATION


class LocalLearner(Protocol):
    """Trains a model on the records of one owner."""

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
        """Train ``model`` in place and return the mechanisms that were executed, empty without privacy.

        Parameters
        ----------
        model : nn.Module
            What is trained.
        records : Examples
            What it is trained on.
        span : Span
            Which part of the whole training this call is.
        rng : Randomness
            What everything is drawn from, except secure noise.
        after_epoch : callable
            Called after each epoch.
        pull : Pull
            Added to each gradient, after the noise.
        most_steps : int or None
            Stop after so many steps, within an epoch if need be: what a privacy budget has left. None: all steps.
        """
        ...


class TrainingDiverged(ArithmeticError):
    """The loss is not a number; the message names the step and the epoch, and the client and round if there are any.

    Parameters
    ----------
    message : str
        One line.
    step : int or None
        The step of the call whose loss was not finite, from 1; None where that is not known.
    restored : int or None
        After which step of the call the model had the weights that it has now, 0 for its initial ones; their loss was
        finite, except that nothing is known of initial weights. None where the model was not restored.
    model : nn.Module or None
        The model, so restored.
    events : tuple of MechanismEvent
        What ran on the records until then: it has run, whatever came of it.
    """

    def __init__(
        self,
        message: str,
        *,
        step: int | None = None,
        restored: int | None = None,
        model: nn.Module | None = None,
        events: tuple[MechanismEvent, ...] = (),
    ) -> None:
        super().__init__(message)
        self.events = events
        self.step = step
        self.restored = restored
        self.model = model
