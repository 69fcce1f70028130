"""Owners of small models, who train without each other but at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged
from ppml.learning.parameters import flat_parameters, load_parameters
from ppml.learning.training_window import Span
from ppml.learning.vectorized.training import Pupil, Weights, train_side_by_side
from ppml.randomness import Randomness


class SideBySide:
    """All train at once by SGD without privacy, each with the bits that it gets alone.

    Parameters
    ----------
    settings : Settings
        How each walks through its records.
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
        """Train; see :class:`~ppml.learning.sequential.Cohort`."""
        pupils = [Pupil(records, rng) for records, rng in zip(owned, rngs, strict=True)]
        begun = [_Begun(flat_parameters(models[0])) for _ in models]

        def tell(place: int, epoch: int, loss: float, weights: Callable[[], Weights]) -> None:
            begun[place].add(epoch, weights())
            load_parameters(models[place], begun[place].last)
            after_epoch[place](epoch, loss)

        for place, found in enumerate(train_side_by_side(models[0], pupils, self._settings, Span(), tell)):
            if isinstance(found, TrainingDiverged):
                whose = f"client {place}: " if len(models) > 1 else ""
                raise self._restored(whose, found, models[place], begun[place], len(owned[place]))
        return [()] * len(models)

    def _restored(
        self, whose: str, found: TrainingDiverged, model: nn.Module, begun: _Begun, records: int
    ) -> TrainingDiverged:
        """Give ``model`` the weights that the last epoch with a finite loss in its first step began with."""
        settings = self._settings
        assert found.step is not None
        steps = 1 if settings.batch_size == "all" else math.ceil(records / settings.batch_size)
        epoch, taken = divmod(found.step - 1, steps)
        good = max(0, epoch if taken else epoch - 1)
        load_parameters(model, begun.weights[good])
        return TrainingDiverged(
            f"{whose}{found}, epoch {epoch + 1} of {settings.epochs}; the model has its weights after step "
            f"{good * steps} again",
            step=found.step,
            restored=good * steps,
            model=model,
        )


class _Begun:
    """The weights that an owner began its last two epochs with, by how many epochs it had behind it."""

    def __init__(self, initial: Weights) -> None:
        self.weights = {0: initial}

    def add(self, epochs: int, weights: Weights) -> None:
        """Keep what the next epoch begins with."""
        self.weights.pop(epochs - 2, None)
        self.weights[epochs] = weights

    @property
    def last(self) -> Weights:
        """What was added last."""
        return self.weights[max(self.weights)]
