"""The interface of local learners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.data.transforms.deformation import NO_DEFORMATION, Deformation
from ppml.learning.gradient_correction import NO_CORRECTION, GradientCorrection
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness

AfterEpoch = Callable[[int, float | None], None]
"""Called after each epoch with its number, from 1, and the mean training loss (nats).

The loss is None under privacy: it is a statistic of private examples without noise.
"""


def no_op(*_: object) -> None:
    """Ignore the arguments: the default of all callbacks."""


OnRelease = Callable[[Sequence[torch.Tensor]], None]
"""Called with the noisy gradient of a step, one tensor per parameter, divided by the expected batch size."""


@dataclass(frozen=True)
class Settings:
    """Settings of a local training.

    Parameters
    ----------
    epochs : int
        Passes over the examples in one call.
    batch_size : int or "all"
        Examples per step; under Poisson sampling, the expected number.
    learning_rate : float
        The peak, at the start of the training.
    momentum : float
        Momentum of SGD; reset at the start of each call.
    learning_rate_schedule : {"linear", "constant"}
        Learning-rate schedule over the whole training.
    shift : int
        Largest random shift of a batch, in pixels.
    deformation : Deformation
        Ranges of the random deformation of each image.
    """

    epochs: int
    batch_size: int | Literal["all"]
    learning_rate: float
    momentum: float = 0.9
    learning_rate_schedule: str = "linear"
    shift: int = 0
    deformation: Deformation = NO_DEFORMATION


class LocalLearner(Protocol):
    """Trains a model on the examples of one owner."""

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
        """Train ``model`` in place and return the executed mechanisms, empty without privacy.

        Parameters
        ----------
        model : nn.Module
            Initial weights; changed in place.
        examples : Examples
            Training data.
        window : TrainingWindow
            Part of the whole training that this call covers.
        rng : Randomness
            Seed of all draws except secure noise.
        after_epoch : callable
            Called after each epoch.
        correction : GradientCorrection
            Added to each gradient, after the noise.
        affordable_steps : int or None
            The number of steps that the rest of a privacy budget allows: the training stops after it, if necessary
            within an epoch. None: no budget.
        """
        ...


class TrainingDiverged(ArithmeticError):
    """The loss is not finite; the message names the step and the epoch, and the client and round if there are any.

    Parameters
    ----------
    message : str
        One line.
    step : int or None
        The step of the call whose loss was not finite, from 1; None if unknown.
    restored : int or None
        Number of steps of the call before the restored weights, 0 for the initial ones. The loss of restored weights
        was finite, but initial weights are not checked. None if the model was not restored.
    model : nn.Module or None
        The restored model.
    events : tuple of MechanismEvent
        Mechanisms that were executed on the examples before the divergence; they count all the same.
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
