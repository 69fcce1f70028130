"""Many small models trained at once, each on its own records.

A model of a few thousand weights is trained faster than its steps can be called for; side by side, a step of all costs
little more than a step of one. Each model gets the bits that it gets alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.augmentation import Augmentation
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.loop import chosen_images
from ppml.learning.training_window import Span, learning_rate
from ppml.learning.vectorized.network import StackedNetwork, can_be_stacked, pupils_at_once, room_for
from ppml.randomness import Randomness

Weights = NDArray[np.float32]

AfterPupilsEpoch = Callable[[int, int, float, Callable[[], Weights]], None]
"""Called after each epoch of each pupil: its place, the epoch from 1, mean loss (nats), what returns its weights."""


def ignore_pupils_epoch(place: int, epoch: int, loss: float, weights: Callable[[], Weights]) -> None:
    """Do nothing after an epoch."""


@dataclass(frozen=True)
class Pupil:
    """One model's part.

    Parameters
    ----------
    records : Examples
        What it is trained on.
    rng : Randomness
        What its order, shifts and deformations are drawn from.
    """

    records: Examples
    rng: Randomness


def trains_side_by_side(model: nn.Module) -> bool:
    """Return whether copies of ``model`` can be trained at once: on a CPU, where :func:`can_be_stacked` says so."""
    return can_be_stacked(model) and all(parameter.device.type == "cpu" for parameter in model.parameters())


def train_side_by_side(
    model: nn.Module,
    pupils: Sequence[Pupil],
    settings: Settings,
    span: Span,
    after_epoch: AfterPupilsEpoch = ignore_pupils_epoch,
) -> list[Weights | TrainingDiverged]:
    """Train a copy of ``model`` for each pupil, by SGD with momentum as :class:`~ppml.learning.sgd.SgdLearner` does.

    Parameters
    ----------
    model : nn.Module
        One of which :func:`trains_side_by_side`; holds the weights that all begin with, and is not changed.
    pupils : sequence of Pupil
        Whose records are used.
    settings : Settings
        Epochs, batch size and learning rate, the same for all.
    span : Span
        Which part of the whole training this is.
    after_epoch : callable
        Called after each epoch of each pupil, until its loss is not finite.

    Returns
    -------
    list
        For each pupil its weights, in the order of ``model.parameters()``, or how it diverged.
    """
    # Whoever is told of an epoch may do what it likes with its own model, which may be this one.
    model = copy.deepcopy(model)
    walks = [_Walk(place, pupil, settings, span) for place, pupil in enumerate(pupils)]
    # A group has one shape, which is that of each of its members alone.
    groups: dict[int, list[_Walk]] = {}
    for walk in walks:
        groups.setdefault(room_for(model, walk.rows), []).append(walk)
    found: dict[int, Weights | TrainingDiverged] = {}
    for size, group in groups.items():
        # Whoever has fewest steps is last, and the rest goes on without it.
        group.sort(key=lambda walk: -walk.steps)
        at_once = pupils_at_once(model, size)
        for start in range(0, len(group), at_once):
            found |= _train_group(model, group[start : start + at_once], size, settings, after_epoch)
    return [found[place] for place in range(len(pupils))]


def _train_group(
    model: nn.Module, walks: Sequence[_Walk], size: int, settings: Settings, after_epoch: AfterPupilsEpoch
) -> dict[int, Weights | TrainingDiverged]:
    network = StackedNetwork(model, len(walks), size, walks[0].shape)
    batch = _Batch(network)
    found: dict[int, Weights | TrainingDiverged] = {}
    training = list(walks)
    for step in range(walks[0].steps):
        rates = torch.tensor([walk.rate(step) for walk in training])
        counts = [batch.fill(place, walk) for place, walk in enumerate(training)]
        losses = network.backward().tolist()
        network.step(rates, settings.momentum)
        for place, (walk, loss, count) in enumerate(zip(training, losses, counts, strict=True)):
            if walk.pupil in found:
                continue
            if not math.isfinite(loss):
                found[walk.pupil] = TrainingDiverged(
                    f"the loss is not finite in step {step + 1} of {walk.steps}", step=step + 1
                )
                continue
            if walk.steps == step + 1:
                found[walk.pupil] = _result(network.weights_of(place), walk)
            if not isinstance(found.get(walk.pupil), TrainingDiverged):
                walk.tell(step, loss, count, after_epoch, partial(network.weights_of, place))
        if all(walk.pupil in found for walk in training):
            break
        training = [walk for walk in training if walk.steps > step + 1]
        if len(training) < len(rates):
            network.keep(len(training))
            batch = _Batch(network)
    return found


def _result(weights: Weights, walk: _Walk) -> Weights | TrainingDiverged:
    if np.isfinite(weights).all():
        return weights
    # What the last step did shows in no loss.
    return TrainingDiverged(f"a weight is not finite after step {walk.steps}", step=walk.steps)


class _Walk:
    """Which records a pupil meets in which step, and at which learning rate."""

    def __init__(self, place: int, pupil: Pupil, settings: Settings, span: Span) -> None:
        self.pupil = place
        self._records, self._settings, self._span = pupil.records, settings, span
        self._images = pupil.records.images.flatten(1)
        count = len(pupil.records)
        self._size = count if settings.batch_size == "all" else settings.batch_size
        copied = pupil.records.images.dim() == 3
        self._copies = pupil.records.images.shape[1] if copied else 1
        self.rows = self._size * self._copies
        self.shape = pupil.records.images.shape[2 if copied else 1 :]
        self._an_epoch = math.ceil(count / self._size)
        self.steps = self._an_epoch * settings.epochs
        self._augment = Augmentation(pupil.records, settings.shift, settings.deformation, pupil.rng)
        self._batches = self._order(pupil.rng.child("order").torch(), count)
        self._total, self._seen = 0.0, 0

    def _order(self, generator: torch.Generator, count: int) -> Iterator[torch.Tensor]:
        for _ in range(self._settings.epochs):
            yield from torch.randperm(count, generator=generator).split(self._size)

    def take(self, rows: torch.Tensor, labels: torch.Tensor) -> int:
        """Put the records of the next step into the first of ``rows`` and ``labels``; return how many rows they take.

        A record has a row, or one for each of its copies.
        """
        index = next(self._batches)
        count = len(index) * self._copies
        if self._copies > 1 or not self._augment.is_none:
            images = self._augment(chosen_images(self._records, index), index)
            rows[:count] = images.reshape(count, -1)
        else:
            torch.index_select(self._images, 0, index, out=rows[:count])
        told = self._records.labels[index]
        labels[:count] = told if self._copies == 1 else told.repeat_interleave(self._copies)
        return count

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``."""
        settings = self._settings
        position = self._span.at((step // self._an_epoch + step % self._an_epoch / self._an_epoch) / settings.epochs)
        return learning_rate(settings.learning_rate, settings.decay, position)

    def tell(
        self, step: int, loss: float, count: int, after_epoch: AfterPupilsEpoch, weights: Callable[[], Weights]
    ) -> None:
        """Count the mean loss of the ``count`` rows of a step, and tell of the epoch that it ends."""
        self._total += loss * count
        self._seen += count
        if (step + 1) % self._an_epoch == 0:
            after_epoch(self.pupil, (step + 1) // self._an_epoch, self._total / self._seen, weights)
            self._total, self._seen = 0.0, 0


class _Batch:
    """The records of a step of all pupils, filled up to one shape."""

    def __init__(self, network: StackedNetwork) -> None:
        self._parts = list(zip(network.values, network.labels, network.weights, strict=True))
        self._counts = [0] * len(self._parts)

    def fill(self, place: int, walk: _Walk) -> int:
        """Take the records of a pupil's next step; what it has fewer of weighs 0. Return how many rows they take."""
        rows, labels, weights = self._parts[place]
        count = walk.take(rows, labels)
        # Most batches are as large as the one before.
        if count != self._counts[place]:
            self._counts[place] = count
            rows[count:] = 0.0
            weights[:count] = 1.0 / max(1, count)
            weights[count:] = 0.0
        return count
