"""Stacked networks: one network per replica, with one call per layer for all replicas.

Each replica has the same bits as in a group of one: the shapes of matrix products do not depend on the number of
replicas, batches are padded with examples of weight 0, and operands are aligned, so that the same kernels run. A
convolution has groups for each replica; tests compare the bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ppml.learning.vectorized.convolution import GROUPS_PER_REPLICA, StackedConvolutions, is_stackable_convolution

ALIGNMENT = 16
"""Multiple to which batches and layers are padded: 16 values are 64 bytes, the alignment of vector kernels."""

CACHE_BYTES = 5 * 2**20
"""Bytes of weights, gradients and velocities per group: larger groups leave the cache and are slower."""

MAX_IMAGES = 128
"""Images per convolution over all replicas: with more, intermediate results leave the cache."""


def is_stackable(model: nn.Module) -> bool:
    """Return whether ``model`` is a sequence of layers that can be stacked.

    Stackable are convolutions, group normalisations and max pooling, followed by linear layers, with the hyperbolic
    tangent anywhere after the first of them.
    """
    if not isinstance(model, nn.Sequential):
        return False
    convolutions, dense = _split_layers(model)
    first = next(iter([*convolutions, *dense]), None)
    return (
        isinstance(first, nn.Conv2d | nn.Linear)
        and all(is_stackable_convolution(layer) for layer in convolutions)
        and all(isinstance(layer, nn.Linear | nn.Tanh) for layer in dense)
        and any(isinstance(layer, nn.Linear) for layer in dense)
    )


def _split_layers(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the layers before and after the flattening; without flattening, all layers come after."""
    layers = list(model.children())
    flat = next((place for place, layer in enumerate(layers) if isinstance(layer, nn.Flatten)), -1)
    return layers[: max(flat, 0)], layers[flat + 1 :]


def padded_batch_size(model: nn.Module, count: int) -> int:
    """Return the padded size of a batch of ``count`` examples."""
    return _round_up(count, GROUPS_PER_REPLICA if _split_layers(model)[0] else ALIGNMENT)


def replicas_per_group(model: nn.Module, size: int) -> int:
    """Return the number of replicas with batches of ``size`` that fit in the cache together."""
    weights = sum(3 * parameter.numel() * parameter.element_size() for parameter in model.parameters())
    fit = CACHE_BYTES // weights
    return max(1, min(fit, MAX_IMAGES // size) if _split_layers(model)[0] else fit)


def _round_up(count: int, multiple: int = ALIGNMENT) -> int:
    return max(1, math.ceil(count / multiple)) * multiple


class StackedNetwork:
    """One model per replica, with buffers for their batches.

    Parameters
    ----------
    model : nn.Module
        Initial weights of all replicas.
    replicas, size : int
        Number of replicas, and batch size of each as :func:`padded_batch_size` gives it.
    shape : sequence of int
        Shape of an example.

    Attributes
    ----------
    values : torch.Tensor
        Buffer for the examples of a step, shape ``(replicas, size, values)``.
    labels, weights : torch.Tensor
        Shape ``(replicas, rows)``, of at least ``size`` rows; the weights of a replica's examples add up to 1, and
        padding has weight 0.
    """

    def __init__(self, model: nn.Module, replicas: int, size: int, shape: Sequence[int]) -> None:
        convolutions, dense = _split_layers(model)
        rows = _round_up(size)
        self._dense = [StackedLinear(one, replicas, rows) if isinstance(one, nn.Linear) else Tanh() for one in dense]
        self._linear = [layer for layer in self._dense if isinstance(layer, StackedLinear)]
        self._convolutions = StackedConvolutions(convolutions, replicas, shape) if convolutions else None
        self.values = (
            self._linear[0].inputs[..., : self._linear[0].in_features]
            if self._convolutions is None
            else torch.zeros(replicas, size, math.prod(shape))
        )
        self.labels = torch.zeros((replicas, rows), dtype=torch.int64)
        self.weights = torch.zeros(replicas, rows)

    @torch.no_grad()
    def backward(self) -> torch.Tensor:
        """Compute all gradients on the batch; return each replica's mean loss, shape ``(replicas,)``."""
        values = self.values if self._convolutions is None else self._convolutions.forward(self.values)
        for layer in self._dense:
            values = layer.forward(values)
        log_probabilities = functional.log_softmax(values, dim=2)
        labels = self.labels[..., None]
        # A padding row has a finite loss, and weight 0.
        losses = -(log_probabilities.gather(2, labels)[..., 0] * self.weights).sum(dim=1)
        probabilities = log_probabilities.exp_()
        gradient = probabilities.scatter_add_(2, labels, torch.full_like(probabilities[..., :1], -1.0))
        gradient.mul_(self.weights[..., None])
        for layer in reversed(self._dense[1:]):
            gradient = layer.backward(gradient)
        if self._convolutions is None:
            self._linear[0].weight_gradient(gradient)
        else:
            self._convolutions.backward(self._dense[0].backward(gradient)[:, : self.values.shape[1]])
        return losses

    @torch.no_grad()
    def step(self, rates: torch.Tensor, momentum: float) -> None:
        """Do a step of SGD with each replica's learning rate."""
        for stack in self._stacks:
            stack.step(rates, momentum)

    @property
    def _stacks(self) -> list[StackedConvolutions | StackedLinear]:
        return [*([] if self._convolutions is None else [self._convolutions]), *self._linear]

    def truncate(self, replicas: int) -> None:
        """Drop all replicas after the first ``replicas``."""
        for stack in self._stacks:
            stack.truncate(replicas)
        self.values, self.labels, self.weights = self.values[:replicas], self.labels[:replicas], self.weights[:replicas]

    def replica_weights(self, place: int) -> NDArray[np.float32]:
        """Return a copy of the weights of replica ``place``, in the order of the model's parameters."""
        parts = [part for stack in self._stacks for part in stack.replica_weights(place)]
        flat = np.empty(sum(part.size for part in parts), dtype=np.float32)
        start = 0
        for part in parts:
            flat[start : start + part.size].reshape(part.shape)[...] = part
            start += part.size
        return flat


class Tanh:
    """The hyperbolic tangent."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the hyperbolic tangent of ``values``."""
        self._values = values.tanh()
        return self._values

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the inputs, which may have fewer rows than ``gradient``."""
        return gradient[:, : self._values.shape[1]] * (1.0 - self._values.square())


class StackedLinear:
    """One linear layer per replica; the bias is the weight of a constant input 1.

    Padding has a gradient of 0, and stays 0.

    Parameters
    ----------
    layer : nn.Linear
        Initial weights of all replicas.
    replicas, rows : int
        Number of replicas, and rows of each batch.
    """

    def __init__(self, layer: nn.Linear, replicas: int, rows: int) -> None:
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._biased = layer.bias is not None
        single = torch.zeros(_round_up(self.out_features), _round_up(self.in_features + self._biased))
        single[: self.out_features, : self.in_features] = layer.weight.detach()
        if self._biased:
            single[: self.out_features, self.in_features] = layer.bias.detach()
        self._weight = single.repeat(replicas, 1, 1)
        self._gradient, self._velocity = torch.zeros_like(self._weight), torch.zeros_like(self._weight)
        self.inputs = torch.zeros(replicas, rows, single.shape[1])
        if self._biased:
            self.inputs[..., self.in_features] = 1.0
        self._outputs = torch.zeros(replicas, rows, single.shape[0])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the outputs, ``(replicas, rows, out_features)``, and store the inputs, which may have fewer rows."""
        inputs = self.inputs[:, : values.shape[1], : self.in_features]
        # The input buffer of the first layer holds the examples already.
        if values.data_ptr() != inputs.data_ptr():
            inputs.copy_(values)
        return torch.bmm(self.inputs, self._weight.transpose(1, 2), out=self._outputs)[..., : self.out_features]

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Store the gradient of the weights and return the gradient of the inputs."""
        return torch.bmm(self.weight_gradient(gradient), self._weight)[..., : self.in_features]

    def weight_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """Store the gradient of the weights; return ``gradient`` with padding."""
        padded = functional.pad(gradient, (0, self._weight.shape[1] - self.out_features))
        torch.bmm(padded.transpose(1, 2), self.inputs, out=self._gradient)
        return padded

    def step(self, rates: torch.Tensor, momentum: float) -> None:
        """Do a step of SGD with each replica's learning rate."""
        torch.add(self._gradient, self._velocity, alpha=momentum, out=self._velocity)
        self._weight.addcmul_(self._velocity, rates[:, None, None], value=-1)

    def truncate(self, replicas: int) -> None:
        """Drop all replicas after the first ``replicas``."""
        self._weight, self._velocity = self._weight[:replicas], self._velocity[:replicas]
        self._gradient, self._outputs = self._gradient[:replicas], self._outputs[:replicas]
        self.inputs = self.inputs[:replicas]

    def replica_weights(self, place: int) -> list[NDArray[np.float32]]:
        """Return views of weight and bias of replica ``place``."""
        rows = self._weight[place, : self.out_features].numpy()
        return [rows[:, : self.in_features], *([rows[:, self.in_features]] if self._biased else [])]
