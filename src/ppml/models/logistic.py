"""Multinomial logistic regression on pixels or columns."""

from __future__ import annotations

import math

import torch
from torch import nn


class Logistic(nn.Sequential):
    """One linear layer on the flattened input: 7,850 parameters for 1x28x28 and 10 classes.

    Parameters
    ----------
    shape : tuple of int
        The shape of one input.
    classes : int
        The number of classes; the output holds logits ``(n, classes)``.
    generator : torch.Generator
        Not used: the weights start at zero, since the loss is convex.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> None:
        # A layer of torch would draw from the global generator.
        super().__init__(nn.Flatten(), nn.utils.skip_init(nn.Linear, math.prod(shape), classes))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
