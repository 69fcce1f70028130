"""A network of additions and multiplications only, which can be evaluated on encrypted images."""

from __future__ import annotations

import torch
from torch import nn

from ppml.models.cnn import initialise

CHANNELS, KERNEL, STRIDE, HIDDEN = 5, 8, 3, 64
"""For 1x28x28 the convolution has 5x7x7 outputs: just under a power of two, to which slots are filled up."""


class Square(nn.Module):
    """The only non-linear function here: homomorphic encryption multiplies, and compares nothing."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the squares of ``values``."""
        return values * values


class SquareCnn(nn.Sequential):
    """A convolution and two linear layers with squares between them.

    It has 16,857 parameters for 1x28x28 and 10 classes. The shape is that of LoLa (arXiv 1812.10659) and CryptoNets:
    three linear layers and two squares are five levels of multiplications. Batch normalisation keeps the squares in
    bounds while training; for prediction it is a part of the linear layer before it. It mixes the examples of a batch:
    this network is for one owner, without DP.

    Parameters
    ----------
    shape : tuple of int
        The shape of an image: channels, height and width, each at least 8. Below 10, the convolution is 4x4 with stride
        2 and reads the border.
    classes : int
        The number of classes; the output holds logits ``(n, classes)``.
    generator : torch.Generator
        The source of the initial weights.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> None:
        channels, *sides = shape
        border, kernel, stride = (1, KERNEL, STRIDE) if min(sides) >= KERNEL + 2 else (0, 4, 2)
        height, width = ((side - 2 * border - kernel) // stride + 1 for side in sides)
        super().__init__(
            # The border of one pixel is left out: digits do not reach it.
            nn.ZeroPad2d(-border),
            nn.Conv2d(channels, CHANNELS, kernel_size=kernel, stride=stride),
            nn.BatchNorm2d(CHANNELS),
            Square(),
            nn.Flatten(),
            nn.Linear(CHANNELS * height * width, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            Square(),
            nn.Linear(HIDDEN, classes),
        )
        initialise(self, generator)
