"""Training of several owners, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.learner import AfterEpoch, LocalLearner
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness


class CohortTrainer(Protocol):
    """Trains one model for each owner."""

    def fit(
        self,
        models: Sequence[nn.Module],
        owned: Sequence[Examples],
        rngs: Sequence[Randomness],
        after_epoch: Sequence[AfterEpoch],
    ) -> list[tuple[MechanismEvent, ...]]:
        """Train ``models`` in place and return the executed mechanisms of each owner.

        Parameters
        ----------
        models : sequence of nn.Module
            One model per owner, all with the same weights.
        owned, rngs : sequences of the same length
            Examples and seed of each owner.
        after_epoch : sequence of callable
            Called after each epoch of an owner; its model has the weights of that epoch during the call.

        Raises
        ------
        TrainingDiverged
            The loss of an owner is not finite.
        """
        ...


class SequentialTrainer:
    """Trains the owners one after another, each with its own learner.

    Parameters
    ----------
    learners : sequence of LocalLearner
        One learner per owner.
    affordable_steps : sequence of int or None
        The number of steps that each owner's privacy budget allows; None without a budget.
    """

    def __init__(self, learners: Sequence[LocalLearner], affordable_steps: Sequence[int | None]) -> None:
        self._learners, self._affordable_steps = learners, affordable_steps

    def fit(
        self,
        models: Sequence[nn.Module],
        owned: Sequence[Examples],
        rngs: Sequence[Randomness],
        after_epoch: Sequence[AfterEpoch],
    ) -> list[tuple[MechanismEvent, ...]]:
        """Train the models; see :class:`CohortTrainer`."""
        owners = zip(self._learners, models, owned, rngs, after_epoch, self._affordable_steps, strict=True)
        return [
            learner.fit(model, examples, window=TrainingWindow(), rng=rng, after_epoch=callback, affordable_steps=steps)
            for learner, model, examples, rng, callback, steps in owners
        ]
