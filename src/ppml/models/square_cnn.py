"""A network of additions and multiplications only, which can be evaluated on encrypted images."""

from __future__ import annotations

import torch
from torch import nn

from ppml.models.cnn import initialise

CHANNELS, WIDTH, HIDDEN = 5, 7, 64
"""The convolution has 5 x 7 x 7 outputs: just under a power of two, to which slots are filled up."""


class Square(nn.Module):
    """The only non-linear function here: homomorphic encryption multiplies, and compares nothing."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the squares of ``values``."""
        return values * values


class SquareCnn(nn.Sequential):
    """A convolution and two linear layers with squares between them: 16,857 parameters for 10 classes.

    The shape is that of LoLa (arXiv 1812.10659) and CryptoNets: three linear layers and two squares are five levels of
    multiplications. Batch normalisation keeps the squares in bounds while training; for prediction it is a part of the
    linear layer before it. It mixes the examples of a batch: this network is for one owner, without DP.

    Parameters
    ----------
    classes : int
        Number of classes; the output has shape ``(n, classes)`` and holds logits.
    generator : torch.Generator
        Where the initial weights come from. Input: ``(n, 1, 28, 28)``.
    """

    def __init__(self, classes: int, generator: torch.Generator) -> None:
        super().__init__(
            # A border of one pixel, in which digits have nothing, is left out.
            nn.ZeroPad2d(-1),
            nn.Conv2d(1, CHANNELS, kernel_size=8, stride=3),
            nn.BatchNorm2d(CHANNELS),
            Square(),
            nn.Flatten(),
            nn.Linear(CHANNELS * WIDTH * WIDTH, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            Square(),
            nn.Linear(HIDDEN, classes),
        )
        initialise(self, generator)
