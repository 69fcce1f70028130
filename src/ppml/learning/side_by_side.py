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
from ppml.learning.augmentation import shift_batch
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
    """Return whether ``model`` is dense: layers one after the other, linear or of single values."""
    return isinstance(model, nn.Sequential) and all(isinstance(one, nn.Flatten | nn.Linear | nn.Tanh) for one in model)


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


def _train_group(
    model: nn.Module, walks: Sequence[_Walk], size: int, settings: Settings
) -> list[NDArray[np.float32] | TrainingDiverged]:
    layers = [_Stack(layer, len(walks)) for layer in model if isinstance(layer, nn.Linear)]  # type: ignore[attr-defined]
    batch = _Batch(len(walks), size, layers[0])
    diverged: dict[int, TrainingDiverged] = {}
    for step in range(max(walk.steps for walk in walks)):
        batch.fill([walk.take(step) for walk in walks])
        losses = _losses(model, layers, batch)
        losses.sum().backward()
        for place in (~losses.detach().isfinite()).nonzero().flatten().tolist():
            diverged.setdefault(place, _divergence(step + 1, walks[place].steps))
        rates = torch.tensor([walk.rate(step) for walk in walks])
        for layer in layers:
            layer.step(rates, settings.momentum)
    return [diverged.get(place) or _weights(layers, place, walk.steps) for place, walk in enumerate(walks)]


def _divergence(step: int, steps: int) -> TrainingDiverged:
    return TrainingDiverged(f"the loss is not finite in step {step} of {steps}", step=step)


def _weights(layers: Sequence[_Stack], place: int, steps: int) -> NDArray[np.float32] | TrainingDiverged:
    values = torch.cat([part for layer in layers for part in layer.weights_of(place)])
    if not bool(values.isfinite().all()):
        return TrainingDiverged(f"a weight is not finite after step {steps}", step=steps)
    flat: NDArray[np.float32] = values.numpy()
    return flat


class _Walk:
    """Which records a pupil meets in which step, and at which learning rate."""

    def __init__(self, pupil: Pupil, settings: Settings, span: Span) -> None:
        self._records, self._settings, self._span = pupil.records, settings, span
        count = len(pupil.records)
        self._size = count if settings.batch_size == "all" else settings.batch_size
        copies = pupil.records.images.shape[1] if pupil.records.images.dim() == 3 else 1
        self.size = _filled(self._size * copies)
        self._an_epoch = math.ceil(count / self._size)
        self.steps = self._an_epoch * settings.epochs
        self._shifts = pupil.rng.child("shift").torch()
        self._batches = self._order(pupil.rng.child("order").torch(), count)

    def _order(self, generator: torch.Generator, count: int) -> Iterator[torch.Tensor]:
        for _ in range(self._settings.epochs):
            yield from torch.randperm(count, generator=generator).split(self._size)

    def take(self, step: int) -> Examples:
        """Return the records of ``step``, none where all steps are taken."""
        if step >= self.steps:
            return self._records.select(torch.zeros(0, dtype=torch.int64))
        index = next(self._batches)
        images = shift_batch(chosen_images(self._records, index), self._settings.shift, self._shifts)
        return Examples(images, self._records.labels[index])

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
    inputs : torch.Tensor
        Shape ``(pupils, size, values)``, as the first layer takes them.
    labels, weights : torch.Tensor
        Shape ``(pupils, size)``; the weights of a pupil's records add up to 1.
    """

    def __init__(self, pupils: int, size: int, first: _Stack) -> None:
        self.inputs = first.prepared(torch.zeros(pupils, size, first.inputs))
        self.labels = torch.zeros(pupils, size, dtype=torch.int64)
        self.weights = torch.zeros(pupils, size)
        self._values = self.inputs[..., : first.inputs]

    def fill(self, taken: Sequence[Examples]) -> None:
        """Take the records of the next step; what a pupil has fewer of weighs 0."""
        for place, records in enumerate(taken):
            values, labels = _rows(records)
            count = len(values)
            self._values[place, :count] = values
            self._values[place, count:] = 0.0
            self.labels[place, :count] = labels
            self.weights[place, :count] = 1.0 / max(1, count)
            self.weights[place, count:] = 0.0


def _rows(records: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a row an image, or a copy of one, with its label."""
    images = records.images
    if images.dim() == 3:
        return images.flatten(0, 1), records.labels.repeat_interleave(images.shape[1])
    return images.flatten(1), records.labels


def _filled(count: int) -> int:
    return max(1, math.ceil(count / LANES)) * LANES


class _Stack:
    """One linear layer of every pupil, the bias as the weight of an input that is always 1.

    What rows and columns are filled up with has a gradient of 0, and stays 0.
    """

    def __init__(self, layer: nn.Linear, pupils: int) -> None:
        self.inputs, self.outputs = layer.in_features, layer.out_features
        self._biased = layer.bias is not None
        single = torch.zeros(_filled(self.outputs), _filled(self.inputs + self._biased))
        with torch.no_grad():
            single[: self.outputs, : self.inputs] = layer.weight
            if self._biased:
                single[: self.outputs, self.inputs] = layer.bias
        self.weight = single.repeat(pupils, 1, 1).requires_grad_()
        self._velocity = torch.zeros_like(self.weight)

    def prepared(self, values: torch.Tensor) -> torch.Tensor:
        """Return inputs of shape ``(pupils, size, inputs)`` filled up, with the 1 that the bias is multiplied by."""
        filled = functional.pad(values, (0, self.weight.shape[2] - self.inputs))
        if self._biased:
            filled[..., self.inputs] = 1.0
        return filled

    def apply(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the outputs, shape ``(pupils, size, outputs)``."""
        return torch.bmm(prepared, self.weight.transpose(1, 2))[..., : self.outputs]

    @torch.no_grad()
    def step(self, rates: torch.Tensor, momentum: float) -> None:
        """Take a step of SGD; a pupil with rate 0 stays where it is."""
        assert self.weight.grad is not None
        torch.add(self.weight.grad, self._velocity, alpha=momentum, out=self._velocity)
        self.weight.addcmul_(self._velocity, rates[:, None, None], value=-1)
        self.weight.grad = None

    @torch.no_grad()
    def weights_of(self, place: int) -> list[torch.Tensor]:
        """Return weight and bias of one pupil, flat."""
        mine = self.weight[place, : self.outputs]
        parts = [mine[:, : self.inputs], *([mine[:, self.inputs]] if self._biased else [])]
        return [part.detach().reshape(-1).clone() for part in parts]


def _losses(model: nn.Module, layers: Sequence[_Stack], batch: _Batch) -> torch.Tensor:
    """Return each pupil's mean loss, shape ``(pupils,)``."""
    first, *others = layers
    values, left = first.apply(batch.inputs), iter(others)
    inner = list(model.children())
    for layer in inner[1 + next(place for place, one in enumerate(inner) if isinstance(one, nn.Linear)) :]:
        match layer:
            case nn.Linear():
                stack = next(left)
                values = stack.apply(stack.prepared(values))
            case nn.Tanh():
                values = values.tanh()
    losses = functional.cross_entropy(values.flatten(0, 1), batch.labels.flatten(), reduction="none")
    # A row that no record fills has a finite loss, and weight 0.
    return (losses.view_as(batch.weights) * batch.weights).sum(dim=1)
