"""Stacked convolutional layers: one grouped convolution for all replicas.

Small convolutions on small batches are dominated by the cost of the call, so a grouped convolution of many replicas
takes little longer than one of a single replica.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

GROUPS_PER_REPLICA = 2
"""Groups per replica's batch: a single replica has groups, too, and so runs the same kernels."""


def is_stackable_convolution(layer: nn.Module) -> bool:
    """Return whether ``layer`` supports several groups of channels."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros"
    return isinstance(layer, nn.GroupNorm | nn.Tanh | nn.MaxPool2d)


class StackedConvolutions:
    """The convolutional layers of all replicas.

    Parameters
    ----------
    layers : sequence of nn.Module
        Initial weights of all replicas; see :func:`is_stackable_convolution`.
    replicas : int
        Number of replicas.
    shape : sequence of int
        Channels, height and width of an image.
    """

    def __init__(self, layers: Sequence[nn.Module], replicas: int, shape: Sequence[int]) -> None:
        self._layers, self._shape = layers, tuple(shape)
        self._weights = [
            parameter.detach().contiguous().repeat(replicas, *[1] * parameter.dim())
            for layer in layers
            for parameter in layer.parameters()
        ]
        for weight in self._weights:
            weight.requires_grad_()
        self._velocities = [torch.zeros_like(weight) for weight in self._weights]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the features of the images ``values``, both of shape ``(replicas, size, values)``."""
        replicas, size, _ = values.shape
        groups = replicas * GROUPS_PER_REPLICA
        images = values.view(replicas, GROUPS_PER_REPLICA, size // GROUPS_PER_REPLICA, *self._shape)
        images = images.permute(2, 0, 1, 3, 4, 5).flatten(1, 3)
        # Convolutions on a CPU are about twice as fast in this memory format.
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.enable_grad():
            weights = iter([_repeat_for_groups(weight) for weight in self._weights])
            for layer in self._layers:
                images = _apply_layer(layer, images, groups, [next(weights) for _ in layer.parameters()])
            features = images.unflatten(1, (replicas, GROUPS_PER_REPLICA, -1)).permute(1, 2, 0, 3, 4, 5)
            self._features: torch.Tensor = features.reshape(replicas, size, -1)
        detached: torch.Tensor = self._features.detach()
        return detached

    def backward(self, gradient: torch.Tensor) -> None:
        """Store the gradients of the weights for the ``gradient`` of the features."""
        self._gradients = torch.autograd.grad(self._features, self._weights, gradient)

    def step(self, rates: torch.Tensor, momentum: float) -> None:
        """Do a step of SGD with each replica's learning rate."""
        for weight, gradient, velocity in zip(self._weights, self._gradients, self._velocities, strict=True):
            torch.add(gradient, velocity, alpha=momentum, out=velocity)
            weight.addcmul_(velocity, rates.view(-1, *[1] * (weight.dim() - 1)), value=-1)

    def truncate(self, replicas: int) -> None:
        """Drop all replicas after the first ``replicas``."""
        self._weights = [weight.detach()[:replicas].requires_grad_() for weight in self._weights]
        self._velocities = [velocity[:replicas] for velocity in self._velocities]

    def replica_weights(self, place: int) -> list[NDArray[np.float32]]:
        """Return views of the weights of replica ``place``."""
        return [weight.detach()[place].numpy() for weight in self._weights]


def _repeat_for_groups(weight: torch.Tensor) -> torch.Tensor:
    """Return the concatenated weights of all replicas, repeated for each group."""
    repeated = weight[:, None].expand(len(weight), GROUPS_PER_REPLICA, *weight.shape[1:]).flatten(0, 2)
    return repeated.contiguous(memory_format=torch.channels_last) if repeated.dim() == 4 else repeated


def _apply_layer(layer: nn.Module, images: torch.Tensor, groups: int, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    if isinstance(layer, nn.Conv2d):
        stride, padding, dilation = layer.stride, layer.padding, layer.dilation
        bias = weights[1] if len(weights) > 1 else None
        return functional.conv2d(images, weights[0], bias, stride, padding, dilation, groups * layer.groups)
    if isinstance(layer, nn.GroupNorm):
        scale, bias = weights or (None, None)
        return functional.group_norm(images, groups * layer.num_groups, scale, bias, layer.eps)
    values: torch.Tensor = layer(images)
    return values
