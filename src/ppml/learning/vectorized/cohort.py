"""Vectorized training of several owners of small models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged
from ppml.learning.parameters import flatten, unflatten_into
from ppml.learning.training_window import TrainingWindow
from ppml.learning.vectorized.training import Replica, Weights, train_vectorized
from ppml.randomness import Randomness


class VectorizedTrainer:
    """Trains all owners together by SGD without privacy; the bits do not depend on the other owners.

    Parameters
    ----------
    settings : Settings
        Settings of each owner's training.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def fit(
        self,
        models: Sequence[nn.Module],
        owned: Sequence[Examples],
        rngs: Sequence[Randomness],
        after_epoch: Sequence[AfterEpoch],
    ) -> list[tuple[MechanismEvent, ...]]:
        """Train the models; see :class:`~ppml.learning.sequential.CohortTrainer`."""
        replicas = [Replica(examples, rng) for examples, rng in zip(owned, rngs, strict=True)]
        starts = [_EpochStarts(flatten(models[0])) for _ in models]

        def end_epoch(place: int, epoch: int, loss: float, weights: Callable[[], Weights]) -> None:
            starts[place].add(epoch, weights())
            unflatten_into(models[place], starts[place].last)
            after_epoch[place](epoch, loss)

        for place, found in enumerate(
            train_vectorized(models[0], replicas, self._settings, TrainingWindow(), end_epoch)
        ):
            if isinstance(found, TrainingDiverged):
                owner = f"client {place}: " if len(models) > 1 else ""
                raise self._restore(owner, found, models[place], starts[place], len(owned[place]))
        return [()] * len(models)

    def _restore(
        self, owner: str, found: TrainingDiverged, model: nn.Module, starts: _EpochStarts, examples: int
    ) -> TrainingDiverged:
        """Give ``model`` the weights from the start of the last epoch whose first step had a finite loss."""
        settings = self._settings
        assert found.step is not None
        steps = 1 if settings.batch_size == "all" else math.ceil(examples / settings.batch_size)
        epoch, taken = divmod(found.step - 1, steps)
        good = max(0, epoch if taken else epoch - 1)
        unflatten_into(model, starts.weights[good])
        return TrainingDiverged(
            f"{owner}{found}, epoch {epoch + 1} of {settings.epochs}; the model has its weights after step "
            f"{good * steps} again",
            step=found.step,
            restored=good * steps,
            model=model,
        )


class _EpochStarts:
    """Weights of an owner at the start of its last two epochs, by number of finished epochs."""

    def __init__(self, initial: Weights) -> None:
        self.weights = {0: initial}

    def add(self, epochs: int, weights: Weights) -> None:
        """Store the initial weights of the next epoch."""
        self.weights.pop(epochs - 2, None)
        self.weights[epochs] = weights

    @property
    def last(self) -> Weights:
        """The weights added last."""
        return self.weights[max(self.weights)]
