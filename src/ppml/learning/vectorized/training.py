"""Vectorized training of many small models, each on its own examples.

Call overhead dominates the training of a model with a few thousand weights. A vectorized step of all models costs
little more than a step of one, and each model gets the same bits as in a group of one.
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
from ppml.learning.learner import Settings, TrainingDiverged, no_op
from ppml.learning.loop import select_batch
from ppml.learning.training_window import TrainingWindow, learning_rate
from ppml.learning.vectorized.network import StackedNetwork, is_stackable, padded_batch_size, replicas_per_group
from ppml.randomness import Randomness

Weights = NDArray[np.float32]

AfterReplicaEpoch = Callable[[int, int, float, Callable[[], Weights]], None]
"""Called after each epoch of each replica: index, epoch from 1, mean loss (nats), function that returns the weights."""


@dataclass(frozen=True)
class Replica:
    """Data and seed of one model.

    Parameters
    ----------
    examples : Examples
        Training data.
    rng : Randomness
        Seed of order, shifts and deformations.
    """

    examples: Examples
    rng: Randomness


def can_vectorize(model: nn.Module) -> bool:
    """Return whether copies of ``model`` can be trained together: stackable layers (:func:`is_stackable`) on a CPU."""
    return is_stackable(model) and all(parameter.device.type == "cpu" for parameter in model.parameters())


def train_vectorized(
    model: nn.Module,
    replicas: Sequence[Replica],
    settings: Settings,
    window: TrainingWindow,
    after_epoch: AfterReplicaEpoch = no_op,
) -> list[Weights | TrainingDiverged]:
    """Train a copy of ``model`` for each replica, by SGD with momentum as in :class:`~ppml.learning.sgd.SgdLearner`.

    Parameters
    ----------
    model : nn.Module
        Initial weights, not changed; see :func:`can_vectorize`.
    replicas : sequence of Replica
        Data and seeds.
    settings : Settings
        Epochs, batch size and learning rate of all replicas.
    window : TrainingWindow
        Part of the whole training that this call covers.
    after_epoch : callable
        Called after each epoch of each replica with a finite loss.

    Returns
    -------
    list
        For each replica its weights, in the order of ``model.parameters()``, or its divergence.
    """
    # The callback may change its own model, which may be this one.
    model = copy.deepcopy(model)
    schedules = [_ReplicaSchedule(place, replica, settings, window) for place, replica in enumerate(replicas)]
    # A group has one batch shape, the same as each replica has in a group of one.
    groups: dict[int, list[_ReplicaSchedule]] = {}
    for schedule in schedules:
        groups.setdefault(padded_batch_size(model, schedule.rows), []).append(schedule)
    found: dict[int, Weights | TrainingDiverged] = {}
    for size, group in groups.items():
        # Sort by number of steps, so that finished replicas can be dropped from the end.
        group.sort(key=lambda schedule: -schedule.steps)
        count = replicas_per_group(model, size)
        for start in range(0, len(group), count):
            found |= _train_group(model, group[start : start + count], size, settings, after_epoch)
    return [found[place] for place in range(len(replicas))]


def _train_group(
    model: nn.Module,
    schedules: Sequence[_ReplicaSchedule],
    size: int,
    settings: Settings,
    after_epoch: AfterReplicaEpoch,
) -> dict[int, Weights | TrainingDiverged]:
    network = StackedNetwork(model, len(schedules), size, schedules[0].shape)
    batch = _Batch(network)
    found: dict[int, Weights | TrainingDiverged] = {}
    training = list(schedules)
    for step in range(schedules[0].steps):
        rates = torch.tensor([schedule.rate(step) for schedule in training])
        counts = [batch.fill(place, schedule) for place, schedule in enumerate(training)]
        losses = network.backward().tolist()
        network.step(rates, settings.momentum)
        for place, (schedule, loss, count) in enumerate(zip(training, losses, counts, strict=True)):
            if schedule.replica in found:
                continue
            if not math.isfinite(loss):
                found[schedule.replica] = TrainingDiverged(
                    f"the loss is not finite in step {step + 1} of {schedule.steps}", step=step + 1
                )
                continue
            if schedule.steps == step + 1:
                found[schedule.replica] = _check_weights(network.replica_weights(place), schedule)
            if not isinstance(found.get(schedule.replica), TrainingDiverged):
                schedule.end_step(step, loss, count, after_epoch, partial(network.replica_weights, place))
        if all(schedule.replica in found for schedule in training):
            break
        training = [schedule for schedule in training if schedule.steps > step + 1]
        if len(training) < len(rates):
            network.truncate(len(training))
            batch = _Batch(network)
    return found


def _check_weights(weights: Weights, schedule: _ReplicaSchedule) -> Weights | TrainingDiverged:
    if np.isfinite(weights).all():
        return weights
    # No later loss depends on the last step.
    return TrainingDiverged(f"a weight is not finite after step {schedule.steps}", step=schedule.steps)


class _ReplicaSchedule:
    """Batches and learning rates of one replica."""

    def __init__(self, place: int, replica: Replica, settings: Settings, window: TrainingWindow) -> None:
        self.replica = place
        self._examples, self._settings, self._window = replica.examples, settings, window
        self._images = replica.examples.inputs.flatten(1)
        count = len(replica.examples)
        self._size = count if settings.batch_size == "all" else settings.batch_size
        has_copies = replica.examples.inputs.dim() == 3
        self._copies = replica.examples.inputs.shape[1] if has_copies else 1
        self.rows = self._size * self._copies
        self.shape = replica.examples.inputs.shape[2 if has_copies else 1 :]
        self._steps_per_epoch = math.ceil(count / self._size)
        self.steps = self._steps_per_epoch * settings.epochs
        self._augment = Augmentation(replica.examples, settings.shift, settings.deformation, replica.rng)
        self._batches = self._order(replica.rng.child("order").torch(), count)
        self._total, self._seen = 0.0, 0

    def _order(self, generator: torch.Generator, count: int) -> Iterator[torch.Tensor]:
        for _ in range(self._settings.epochs):
            yield from torch.randperm(count, generator=generator).split(self._size)

    def take(self, rows: torch.Tensor, labels: torch.Tensor) -> int:
        """Copy the examples of the next step into the first of ``rows`` and ``labels``; return the number of used rows.

        An example uses one row per copy.
        """
        index = next(self._batches)
        count = len(index) * self._copies
        if self._copies > 1 or not self._augment.is_none:
            images = self._augment(select_batch(self._examples, index), index)
            rows[:count] = images.reshape(count, -1)
        else:
            torch.index_select(self._images, 0, index, out=rows[:count])
        chosen = self._examples.labels[index]
        labels[:count] = chosen if self._copies == 1 else chosen.repeat_interleave(self._copies)
        return count

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``."""
        settings = self._settings
        epoch, number = divmod(step, self._steps_per_epoch)
        position = self._window.at((epoch + number / self._steps_per_epoch) / settings.epochs)
        return learning_rate(settings.learning_rate, settings.learning_rate_schedule, position)

    def end_step(
        self, step: int, loss: float, count: int, after_epoch: AfterReplicaEpoch, weights: Callable[[], Weights]
    ) -> None:
        """Add the mean loss of the ``count`` rows of a step; after the last step of an epoch, call ``after_epoch``."""
        self._total += loss * count
        self._seen += count
        if (step + 1) % self._steps_per_epoch == 0:
            after_epoch(self.replica, (step + 1) // self._steps_per_epoch, self._total / self._seen, weights)
            self._total, self._seen = 0.0, 0


class _Batch:
    """The examples of a step of all replicas, padded to one shape."""

    def __init__(self, network: StackedNetwork) -> None:
        self._buffers = list(zip(network.values, network.labels, network.weights, strict=True))
        self._counts = [0] * len(self._buffers)

    def fill(self, place: int, schedule: _ReplicaSchedule) -> int:
        """Copy the examples of a replica's next step and set padding weights to 0; return the number of used rows."""
        rows, labels, weights = self._buffers[place]
        count = schedule.take(rows, labels)
        # Most batches have the size of the previous batch.
        if count != self._counts[place]:
            self._counts[place] = count
            rows[count:] = 0.0
            weights[:count] = 1.0 / max(1, count)
            weights[count:] = 0.0
        return count
