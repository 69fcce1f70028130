"""Owners who train without each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.learner import AfterEpoch, LocalLearner
from ppml.learning.training_window import Span
from ppml.randomness import Randomness


class Cohort(Protocol):
    """Trains a model of each owner."""

    def fit(
        self,
        models: Sequence[nn.Module],
        owned: Sequence[Examples],
        rngs: Sequence[Randomness],
        after_epoch: Sequence[AfterEpoch],
    ) -> list[tuple[MechanismEvent, ...]]:
        """Train ``models`` in place and return the mechanisms that were executed on each owner's records.

        Parameters
        ----------
        models : sequence of nn.Module
            One for each owner, all with the same weights.
        owned, rngs : sequences of the same length
            Each owner's records, and what it draws from.
        after_epoch : sequence of callable
            What is called after each epoch of an owner, whose model then has the weights of that epoch.

        Raises
        ------
        TrainingDiverged
            The loss of an owner is not finite.
        """
        ...


class OneByOne:
    """Each owner has a learner of its own.

    Parameters
    ----------
    learners : sequence of LocalLearner
        One for each owner.
    limits : sequence of int or None
        How many steps each owner's privacy budget allows; None for all.
    """

    def __init__(self, learners: Sequence[LocalLearner], limits: Sequence[int | None]) -> None:
        self._learners, self._limits = learners, limits

    def fit(
        self,
        models: Sequence[nn.Module],
        owned: Sequence[Examples],
        rngs: Sequence[Randomness],
        after_epoch: Sequence[AfterEpoch],
    ) -> list[tuple[MechanismEvent, ...]]:
        """Train; see :class:`Cohort`."""
        parts = zip(self._learners, models, owned, rngs, after_epoch, self._limits, strict=True)
        return [
            learner.fit(model, records, span=Span(), rng=rng, after_epoch=tell, most_steps=limit)
            for learner, model, records, rng, tell, limit in parts
        ]
