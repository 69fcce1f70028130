"""Many small dense models trained at once, each on its own records, as batched matrix products.

A model of a few thousand weights is trained faster than its steps can be called for; side by side, a step of all costs
little more than a step of one. Each model gets the bits that it gets alone: shapes do not depend on how many there are,
batches are filled up with examples of weight 0, and what is multiplied is aligned, so that the same kernels run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ppml.data.examples import Examples
from ppml.learning.augmentation import Augmentation
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.loop import chosen_images
from ppml.learning.schedule import Span, learning_rate
from ppml.randomness import Randomness

LANES = 16
"""Batches and layers are filled up to multiples of so many values: 64 bytes, the alignment that kernels look for."""

CACHE = 5 * 2**20
"""Bytes of weights, gradients and velocities that are worked on at once: what does not stay in the cache is slower."""


@dataclass(frozen=True)
class Pupil:
    """One model's part.

    Parameters
    ----------
    records : Examples
        What it is trained on.
    rng : Randomness
        What its order and shifts are drawn from.
    """

    records: Examples
    rng: Randomness


def trains_side_by_side(model: nn.Module) -> bool:
    """Return whether ``model`` is dense: layers one after the other, linear or of single values, the first linear."""
    if not isinstance(model, nn.Sequential) or not all(
        isinstance(one, nn.Flatten | nn.Linear | nn.Tanh) for one in model
    ):
        return False
    return isinstance(next((one for one in model if not isinstance(one, nn.Flatten)), None), nn.Linear)


def train_side_by_side(
    model: nn.Module, pupils: Sequence[Pupil], settings: Settings, span: Span
) -> list[NDArray[np.float32] | TrainingDiverged]:
    """Train a copy of ``model`` for each pupil, by SGD with momentum as :class:`~ppml.learning.sgd.SgdLearner` does.

    Parameters
    ----------
    model : nn.Module
        Dense; holds the weights that all begin with, and is not changed.
    pupils : sequence of Pupil
        Whose records are used.
    settings : Settings
        Epochs, batch size and learning rate, the same for all.
    span : Span
        Which part of the whole training this is.

    Returns
    -------
    list
        For each pupil its weights, in the order of ``model.parameters()``, or how it diverged.
    """
    walks = [_Walk(pupil, settings, span) for pupil in pupils]
    # A group has one shape, which is that of each of its members alone.
    groups: dict[int, list[int]] = {}
    for place, walk in enumerate(walks):
        groups.setdefault(walk.size, []).append(place)
    found: dict[int, NDArray[np.float32] | TrainingDiverged] = {}
    at_once = max(1, CACHE // _bytes_of(model))
    for size, group in groups.items():
        for start in range(0, len(group), at_once):
            places = group[start : start + at_once]
            trained = _train_group(model, [walks[place] for place in places], size, settings)
            found.update(zip(places, trained, strict=True))
    return [found[place] for place in range(len(pupils))]


def _bytes_of(model: nn.Module) -> int:
    """Return what a pupil takes: weights, gradients, velocities."""
    return sum(3 * parameter.numel() * parameter.element_size() for parameter in model.parameters())


@torch.no_grad()
def _train_group(
    model: nn.Module, walks: Sequence[_Walk], size: int, settings: Settings
) -> list[NDArray[np.float32] | TrainingDiverged]:
    network = _Network(model, len(walks), size)
    diverged: dict[int, TrainingDiverged] = {}
    for step in range(max(walk.steps for walk in walks)):
        for place, walk in enumerate(walks):
            network.batch.fill(place, walk, step)
        losses = network.backward()
        for place in (~losses.isfinite()).nonzero().flatten().tolist():
            diverged.setdefault(place, _divergence(step + 1, walks[place].steps))
        network.step(torch.tensor([walk.rate(step) for walk in walks]), settings.momentum)
    return [diverged.get(place) or _weights(network.stacks, place, walk.steps) for place, walk in enumerate(walks)]


def _divergence(step: int, steps: int) -> TrainingDiverged:
    return TrainingDiverged(f"the loss is not finite in step {step} of {steps}", step=step)


def _weights(stacks: Sequence[_Stack], place: int, steps: int) -> NDArray[np.float32] | TrainingDiverged:
    parts = [part for stack in stacks for part in stack.weights_of(place)]
    flat = np.empty(sum(part.size for part in parts), dtype=np.float32)
    start = 0
    for part in parts:
        flat[start : start + part.size].reshape(part.shape)[...] = part
        start += part.size
    if not np.isfinite(flat).all():
        return TrainingDiverged(f"a weight is not finite after step {steps}", step=steps)
    return flat


class _Walk:
    """Which records a pupil meets in which step, and at which learning rate."""

    def __init__(self, pupil: Pupil, settings: Settings, span: Span) -> None:
        self._records, self._settings, self._span = pupil.records, settings, span
        self._images = pupil.records.images.flatten(1)
        count = len(pupil.records)
        self._size = count if settings.batch_size == "all" else settings.batch_size
        self.copies = pupil.records.images.shape[1] if pupil.records.images.dim() == 3 else 1
        self.size = _filled(self._size * self.copies)
        self._an_epoch = math.ceil(count / self._size)
        self.steps = self._an_epoch * settings.epochs
        self._augment = Augmentation(settings.shift, settings.deformation, pupil.rng)
        self._batches = self._order(pupil.rng.child("order").torch(), count)

    def _order(self, generator: torch.Generator, count: int) -> Iterator[torch.Tensor]:
        for _ in range(self._settings.epochs):
            yield from torch.randperm(count, generator=generator).split(self._size)

    def take(self, step: int, rows: torch.Tensor, labels: torch.Tensor) -> int:
        """Put the records of ``step`` into the first of ``rows`` and ``labels``; return how many rows they take.

        A record has a row, or one for each of its copies.
        """
        if step >= self.steps:
            return 0
        index = next(self._batches)
        count = len(index) * self.copies
        if self.copies > 1 or not self._augment.is_none:
            images = self._augment(chosen_images(self._records, index))
            rows[:count] = images.reshape(count, -1)
        else:
            torch.index_select(self._images, 0, index, out=rows[:count])
        told = self._records.labels[index]
        labels[:count] = told if self.copies == 1 else told.repeat_interleave(self.copies)
        return count

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``; 0 where all steps are taken."""
        if step >= self.steps:
            return 0.0
        position = self._span.at((step // self._an_epoch + step % self._an_epoch / self._an_epoch) / self._epochs)
        return learning_rate(self._settings.learning_rate, self._settings.decay, position)

    @property
    def _epochs(self) -> int:
        return self._settings.epochs


class _Batch:
    """The records of a step of all pupils, filled up to one shape.

    Attributes
    ----------
    values : torch.Tensor
        Shape ``(pupils, size, values)``.
    labels, weights : torch.Tensor
        Shape ``(pupils, size)``; the weights of a pupil's records add up to 1.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self.labels = torch.zeros(values.shape[:2], dtype=torch.int64)
        self.weights = torch.zeros(values.shape[:2])
        self._parts = list(zip(values, self.labels, strict=True))
        self._counts = [0] * len(values)

    def fill(self, place: int, walk: _Walk, step: int) -> None:
        """Take the records of a pupil's next step; what it has fewer of weighs 0."""
        count = walk.take(step, *self._parts[place])
        # Most batches are as large as the one before.
        if count != self._counts[place]:
            self._counts[place] = count
            self.values[place, count:] = 0.0
            self.weights[place, :count] = 1.0 / max(1, count)
            self.weights[place, count:] = 0.0


def _filled(count: int) -> int:
    return max(1, math.ceil(count / LANES)) * LANES


class _Network:
    """A dense model of every pupil, with room for all that a step calculates: nothing is asked of memory in a step.

    Parameters
    ----------
    model : nn.Module
        Holds the weights that all begin with.
    pupils, size : int
        How many there are, and examples in a batch of each.
    """

    def __init__(self, model: nn.Module, pupils: int, size: int) -> None:
        self._layers = [
            _Stack(layer, pupils, size) if isinstance(layer, nn.Linear) else _Squash()
            for layer in model.children()
            if not isinstance(layer, nn.Flatten)
        ]
        self.stacks = [layer for layer in self._layers if isinstance(layer, _Stack)]
        first = self.stacks[0]
        self.batch = _Batch(first.taken[..., : first.inputs])

    def backward(self) -> torch.Tensor:
        """Calculate all gradients on the batch; return each pupil's mean loss, shape ``(pupils,)``."""
        values = self.batch.values
        for layer in self._layers:
            values = layer.forward(values)
        told = functional.log_softmax(values, dim=2)
        labels, weights = self.batch.labels[..., None], self.batch.weights
        # A row that no record fills has a finite loss, and weight 0.
        losses = -(told.gather(2, labels)[..., 0] * weights).sum(dim=1)
        slope = told.exp_().scatter_add_(2, labels, torch.full_like(told[..., :1], -1.0)).mul_(weights[..., None])
        for layer in reversed(self._layers[1:]):
            slope = layer.backward(slope)
        self.stacks[0].gather(slope)
        return losses

    def step(self, rates: torch.Tensor, momentum: float) -> None:
        """Take a step of SGD; a pupil with rate 0 stays where it is."""
        for stack in self.stacks:
            stack.step(rates, momentum)


class _Squash:
    """The hyperbolic tangent."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return it."""
        self._values = values.tanh()
        return self._values

    def backward(self, slope: torch.Tensor) -> torch.Tensor:
        """Return the gradient of what it was taken of."""
        return slope * (1.0 - self._values.square())


class _Stack:
    """One linear layer of every pupil, the bias as the weight of an input that is always 1.

    What rows and columns are filled up with has a gradient of 0, and stays 0.
    """

    def __init__(self, layer: nn.Linear, pupils: int, size: int) -> None:
        self.inputs, self.outputs = layer.in_features, layer.out_features
        self._biased = layer.bias is not None
        single = torch.zeros(_filled(self.outputs), _filled(self.inputs + self._biased))
        single[: self.outputs, : self.inputs] = layer.weight
        if self._biased:
            single[: self.outputs, self.inputs] = layer.bias
        self._weight = single.repeat(pupils, 1, 1)
        self._gradient, self._velocity = torch.zeros_like(self._weight), torch.zeros_like(self._weight)
        self.taken = torch.zeros(pupils, size, single.shape[1])
        if self._biased:
            self.taken[..., self.inputs] = 1.0
        self._given = torch.zeros(pupils, size, single.shape[0])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the outputs, shape ``(pupils, size, outputs)``, and keep the inputs."""
        inputs = self.taken[..., : self.inputs]
        # The records are where the first layer looks for them.
        if values.data_ptr() != inputs.data_ptr():
            inputs.copy_(values)
        return torch.bmm(self.taken, self._weight.transpose(1, 2), out=self._given)[..., : self.outputs]

    def backward(self, slope: torch.Tensor) -> torch.Tensor:
        """Keep the gradient of the weights and return that of the inputs."""
        return torch.bmm(self.gather(slope), self._weight)[..., : self.inputs]

    def gather(self, slope: torch.Tensor) -> torch.Tensor:
        """Keep the gradient of the weights; return ``slope``, filled up."""
        filled = functional.pad(slope, (0, self._weight.shape[1] - self.outputs))
        torch.bmm(filled.transpose(1, 2), self.taken, out=self._gradient)
        return filled

    def step(self, rates: torch.Tensor, momentum: float) -> None:
        """Take a step of SGD; a pupil with rate 0 stays where it is."""
        torch.add(self._gradient, self._velocity, alpha=momentum, out=self._velocity)
        self._weight.addcmul_(self._velocity, rates[:, None, None], value=-1)

    def weights_of(self, place: int) -> list[NDArray[np.float32]]:
        """Return weight and bias of one pupil, as they lie here."""
        mine = self._weight[place, : self.outputs].numpy()
        return [mine[:, : self.inputs], *([mine[:, self.inputs]] if self._biased else [])]
