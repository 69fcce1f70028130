"""The small convolutional network that every technique trains, so that rows compare."""

from __future__ import annotations

import torch
from torch import nn

from ppml.models.pooling import MaxPool2x2

SMALLEST_SIDE = 14
"""Pixels that the two strides of 2 need."""


class TanhCnn(nn.Sequential):
    """A tanh/GroupNorm network of two convolutions and two linear layers: 26,106 parameters for 1x28x28 and 10 classes.

    The layout is that of Opacus' MNIST example; tanh bounds the activations, which helps under clipping and noise
    (arXiv 2007.14191), and group normalisation mixes no examples, which batch normalisation does and DP forbids.

    Parameters
    ----------
    shape : tuple of int
        The shape of an image: channels, height and width, each at least 8. Below 14, the first convolution is 4x4 with
        stride 1, so that enough pixels are left.
    classes : int
        The number of classes; the output holds logits ``(n, classes)``.
    generator : torch.Generator
        The source of the initial weights.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> None:
        channels, *sides = shape
        if min(sides) >= SMALLEST_SIDE:
            kernel, stride, padding = 8, 2, 3
            height, width = (((side - 2) // 2 - 4) // 2 for side in sides)
        else:
            kernel, stride, padding = 4, 1, 1
            height, width = ((side - 2 - 4) // 2 for side in sides)
        super().__init__(
            nn.Conv2d(channels, 16, kernel_size=kernel, stride=stride, padding=padding),
            nn.GroupNorm(4, 16),
            nn.Tanh(),
            MaxPool2x2(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.GroupNorm(4, 32),
            nn.Tanh(),
            MaxPool2x2(),
            nn.Flatten(),
            nn.Linear(32 * height * width, 32),
            nn.Tanh(),
            nn.Linear(32, classes),
        )
        initialise(self, generator)


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of every convolution and linear layer by Xavier's uniform rule; biases are zero.

    ``torch.nn`` draws from the global generator; this draws the same kind of values from ``generator`` alone.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
