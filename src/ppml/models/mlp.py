"""A network of one hidden layer."""

from __future__ import annotations

import math

import torch
from torch import nn

HIDDEN = 64


class Mlp(nn.Sequential):
    """Flattened input, 64 tanh units, logits: 50,890 parameters for 1x28x28 and 10 classes.

    Parameters
    ----------
    shape : tuple of int
        The shape of one input.
    classes : int
        The number of classes; the output holds logits ``(n, classes)``.
    generator : torch.Generator
        The source of the initial weights.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> None:
        # A layer of torch would draw from the global generator.
        hidden = nn.utils.skip_init(nn.Linear, math.prod(shape), HIDDEN)
        output = nn.utils.skip_init(nn.Linear, HIDDEN, classes)
        super().__init__(nn.Flatten(), hidden, nn.Tanh(), output)
        for layer in (hidden, output):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
