"""Networks of which every pupil has its own, calculated as one: a layer of all of them is one call.

Each gets the bits that it gets alone: the shapes of matrix products do not depend on how many there are, batches are
filled up with examples of weight 0, and what is multiplied is aligned, so that the same kernels run. A convolution has
a group for each, and tests look at its bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ppml.learning.vectorized.convolution import HALVES, StackedConvolutions, is_convolutional

LANES = 16
"""Batches and layers are filled up to multiples of so many values: 64 bytes, the alignment that kernels look for."""

CACHE = 5 * 2**20
"""Bytes of weights, gradients and velocities that are worked on at once: what does not stay in the cache is slower."""

IMAGES = 128
"""Images of all pupils that convolutions work on at once: with more, what lies between layers leaves the cache."""


def can_be_stacked(model: nn.Module) -> bool:
    """Return whether ``model`` is layers one after the other that can be calculated for many at once.

    These are convolutions, group normalisations, maxima of neighbours, and then linear layers, with the hyperbolic
    tangent anywhere but before the first of them.
    """
    if not isinstance(model, nn.Sequential):
        return False
    convolutions, dense = _parts(model)
    first = next(iter([*convolutions, *dense]), None)
    return (
        isinstance(first, nn.Conv2d | nn.Linear)
        and all(is_convolutional(layer) for layer in convolutions)
        and all(isinstance(layer, nn.Linear | nn.Tanh) for layer in dense)
        and any(isinstance(layer, nn.Linear) for layer in dense)
    )


def _parts(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the layers before and after the images are flattened; without that, all layers come after."""
    layers = list(model.children())
    flat = next((place for place, layer in enumerate(layers) if isinstance(layer, nn.Flatten)), -1)
    return layers[: max(flat, 0)], layers[flat + 1 :]


def room_for(model: nn.Module, count: int) -> int:
    """Return to how many examples a batch of ``count`` is filled up."""
    return _filled(count, HALVES if _parts(model)[0] else LANES)


def pupils_at_once(model: nn.Module, size: int) -> int:
    """Return how many pupils with batches of ``size`` stay in the cache together."""
    weights = sum(3 * parameter.numel() * parameter.element_size() for parameter in model.parameters())
    fit = CACHE // weights
    return max(1, min(fit, IMAGES // size) if _parts(model)[0] else fit)


def _filled(count: int, multiple: int = LANES) -> int:
    return max(1, math.ceil(count / multiple)) * multiple


class StackedNetwork:
    """A model of every pupil, with room for the batch of each.

    Parameters
    ----------
    model : nn.Module
        Holds the weights that all begin with.
    pupils, size : int
        How many there are, and examples in a batch of each, as :func:`room_for` fills it up.
    shape : sequence of int
        Of an example.

    Attributes
    ----------
    values : torch.Tensor
        Where the examples of a step go, shape ``(pupils, size, values)``.
    labels, weights : torch.Tensor
        Shape ``(pupils, rows)``, of at least ``size`` rows; the weights of a pupil's records add up to 1, and what no
        record fills has weight 0.
    """

    def __init__(self, model: nn.Module, pupils: int, size: int, shape: Sequence[int]) -> None:
        convolutions, dense = _parts(model)
        rows = _filled(size)
        self._dense = [LinearStack(one, pupils, rows) if isinstance(one, nn.Linear) else Squash() for one in dense]
        self._linear = [layer for layer in self._dense if isinstance(layer, LinearStack)]
        self._convolutions = StackedConvolutions(convolutions, pupils, shape) if convolutions else None
        self.values = (
            self._linear[0].taken[..., : self._linear[0].inputs]
            if self._convolutions is None
            else torch.zeros(pupils, size, math.prod(shape))
        )
        self.labels = torch.zeros((pupils, rows), dtype=torch.int64)
        self.weights = torch.zeros(pupils, rows)

    @torch.no_grad()
    def backward(self) -> torch.Tensor:
        """Calculate all gradients on the batch; return each pupil's mean loss, shape ``(pupils,)``."""
        values = self.values if self._convolutions is None else self._convolutions.forward(self.values)
        for layer in self._dense:
            values = layer.forward(values)
        told = functional.log_softmax(values, dim=2)
        labels = self.labels[..., None]
        # A row that no record fills has a finite loss, and weight 0.
        losses = -(told.gather(2, labels)[..., 0] * self.weights).sum(dim=1)
        slope = told.exp_().scatter_add_(2, labels, torch.full_like(told[..., :1], -1.0)).mul_(self.weights[..., None])
        for layer in reversed(self._dense[1:]):
            slope = layer.backward(slope)
        if self._convolutions is None:
            self._linear[0].gather(slope)
        else:
            self._convolutions.backward(self._dense[0].backward(slope)[:, : self.values.shape[1]])
        return losses

    @torch.no_grad()
    def step(self, rates: torch.Tensor, momentum: float) -> None:
        """Take a step of SGD, at each pupil's rate."""
        for stack in self._stacks:
            stack.step(rates, momentum)

    @property
    def _stacks(self) -> list[StackedConvolutions | LinearStack]:
        return [*([] if self._convolutions is None else [self._convolutions]), *self._linear]

    def keep(self, pupils: int) -> None:
        """Go on with the first ``pupils`` alone."""
        for stack in self._stacks:
            stack.keep(pupils)
        self.values, self.labels, self.weights = self.values[:pupils], self.labels[:pupils], self.weights[:pupils]

    def weights_of(self, place: int) -> NDArray[np.float32]:
        """Return the weights of one pupil, in the order of the model's parameters: a copy."""
        parts = [part for stack in self._stacks for part in stack.weights_of(place)]
        flat = np.empty(sum(part.size for part in parts), dtype=np.float32)
        start = 0
        for part in parts:
            flat[start : start + part.size].reshape(part.shape)[...] = part
            start += part.size
        return flat


class Squash:
    """The hyperbolic tangent."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return it."""
        self._values = values.tanh()
        return self._values

    def backward(self, slope: torch.Tensor) -> torch.Tensor:
        """Return the gradient of what it was taken of, which may be fewer rows."""
        return slope[:, : self._values.shape[1]] * (1.0 - self._values.square())


class LinearStack:
    """One linear layer of every pupil, the bias as the weight of an input that is always 1.

    What rows and columns are filled up with has a gradient of 0, and stays 0.

    Parameters
    ----------
    layer : nn.Linear
        Holds the weights that all begin with.
    pupils, rows : int
        How many there are, and rows of a batch of each.
    """

    def __init__(self, layer: nn.Linear, pupils: int, rows: int) -> None:
        self.inputs, self.outputs = layer.in_features, layer.out_features
        self._biased = layer.bias is not None
        single = torch.zeros(_filled(self.outputs), _filled(self.inputs + self._biased))
        single[: self.outputs, : self.inputs] = layer.weight.detach()
        if self._biased:
            single[: self.outputs, self.inputs] = layer.bias.detach()
        self._weight = single.repeat(pupils, 1, 1)
        self._gradient, self._velocity = torch.zeros_like(self._weight), torch.zeros_like(self._weight)
        self.taken = torch.zeros(pupils, rows, single.shape[1])
        if self._biased:
            self.taken[..., self.inputs] = 1.0
        self._given = torch.zeros(pupils, rows, single.shape[0])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the outputs, shape ``(pupils, rows, outputs)``, and keep the inputs, which may be fewer rows."""
        inputs = self.taken[:, : values.shape[1], : self.inputs]
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
        """Take a step of SGD, at each pupil's rate."""
        torch.add(self._gradient, self._velocity, alpha=momentum, out=self._velocity)
        self._weight.addcmul_(self._velocity, rates[:, None, None], value=-1)

    def keep(self, pupils: int) -> None:
        """Go on with the first ``pupils`` alone."""
        self._weight, self._velocity = self._weight[:pupils], self._velocity[:pupils]
        self._gradient, self._given = self._gradient[:pupils], self._given[:pupils]
        self.taken = self.taken[:pupils]

    def weights_of(self, place: int) -> list[NDArray[np.float32]]:
        """Return weight and bias of one pupil, as they lie here."""
        mine = self._weight[place, : self.outputs].numpy()
        return [mine[:, : self.inputs], *([mine[:, self.inputs]] if self._biased else [])]
