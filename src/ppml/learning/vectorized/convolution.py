"""Convolutional layers of which every pupil has its own, calculated as one convolution with a group for each.

Small convolutions on small batches are waiting for the next call more than they calculate, so that those of many pupils
at once take little longer than those of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

HALVES = 2
"""Each pupil's batch is cut in so many groups: one pupil alone, too, has groups, and so the same kernels."""


def is_convolutional(layer: nn.Module) -> bool:
    """Return whether ``layer`` can be calculated for several groups of channels at once."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros"
    return isinstance(layer, nn.GroupNorm | nn.Tanh | nn.MaxPool2d)


class StackedConvolutions:
    """The convolutional layers of every pupil.

    Parameters
    ----------
    layers : sequence of nn.Module
        Hold the weights that all begin with; :func:`is_convolutional`.
    pupils : int
        How many there are.
    shape : sequence of int
        Of an image: channels, height, width.
    """

    def __init__(self, layers: Sequence[nn.Module], pupils: int, shape: Sequence[int]) -> None:
        self._layers, self._shape = layers, tuple(shape)
        self._weights = [
            parameter.detach().contiguous().repeat(pupils, *[1] * parameter.dim())
            for layer in layers
            for parameter in layer.parameters()
        ]
        for weight in self._weights:
            weight.requires_grad_()
        self._velocities = [torch.zeros_like(weight) for weight in self._weights]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the features of the images ``values``, both of shape ``(pupils, size, values)``."""
        pupils, size, _ = values.shape
        groups = pupils * HALVES
        images = values.view(pupils, HALVES, size // HALVES, *self._shape)
        images = images.permute(2, 0, 1, 3, 4, 5).flatten(1, 3)
        # Convolutions on a CPU are about twice as fast in this order.
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.enable_grad():
            weights = iter([_for_each_half(weight) for weight in self._weights])
            for layer in self._layers:
                images = _calculate(layer, images, groups, [next(weights) for _ in layer.parameters()])
            features = images.unflatten(1, (pupils, HALVES, -1)).permute(1, 2, 0, 3, 4, 5)
            self._features: torch.Tensor = features.reshape(pupils, size, -1)
        given: torch.Tensor = self._features.detach()
        return given

    def backward(self, slope: torch.Tensor) -> None:
        """Keep the gradients of the weights, ``slope`` being that of the features."""
        self._gradients = torch.autograd.grad(self._features, self._weights, slope)

    def step(self, rates: torch.Tensor, momentum: float) -> None:
        """Take a step of SGD, at each pupil's rate."""
        for weight, gradient, velocity in zip(self._weights, self._gradients, self._velocities, strict=True):
            torch.add(gradient, velocity, alpha=momentum, out=velocity)
            weight.addcmul_(velocity, rates.view(-1, *[1] * (weight.dim() - 1)), value=-1)

    def keep(self, pupils: int) -> None:
        """Go on with the first ``pupils`` alone."""
        self._weights = [weight.detach()[:pupils].requires_grad_() for weight in self._weights]
        self._velocities = [velocity[:pupils] for velocity in self._velocities]

    def weights_of(self, place: int) -> list[NDArray[np.float32]]:
        """Return the weights of one pupil, as they lie here."""
        return [weight.detach()[place].numpy() for weight in self._weights]


def _for_each_half(weight: torch.Tensor) -> torch.Tensor:
    """Return the weights of all pupils side by side, those of each as often as its batch has parts."""
    halves = weight[:, None].expand(len(weight), HALVES, *weight.shape[1:]).flatten(0, 2)
    return halves.contiguous(memory_format=torch.channels_last) if halves.dim() == 4 else halves


def _calculate(layer: nn.Module, images: torch.Tensor, groups: int, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    if isinstance(layer, nn.Conv2d):
        stride, padding, dilation = layer.stride, layer.padding, layer.dilation
        bias = weights[1] if len(weights) > 1 else None
        return functional.conv2d(images, weights[0], bias, stride, padding, dilation, groups * layer.groups)
    if isinstance(layer, nn.GroupNorm):
        scale, bias = weights or (None, None)
        return functional.group_norm(images, groups * layer.num_groups, scale, bias, layer.eps)
    values: torch.Tensor = layer(images)
    return values
