"""A network of one hidden layer."""

from __future__ import annotations

import torch
from torch import nn

HIDDEN = 64


class Mlp(nn.Sequential):
    """Flattened image, 64 tanh units, logits: 50,890 parameters for 10 classes.

    Parameters
    ----------
    classes : int
        Number of classes; the output has shape ``(n, classes)`` and holds logits.
    generator : torch.Generator
        What the initial weights are drawn from. Input: ``(n, 1, 28, 28)``.
    """

    def __init__(self, classes: int, generator: torch.Generator) -> None:
        # Without the draw from the global generator that torch makes of a new layer.
        hidden = nn.utils.skip_init(nn.Linear, 28 * 28, HIDDEN)
        output = nn.utils.skip_init(nn.Linear, HIDDEN, classes)
        super().__init__(nn.Flatten(), hidden, nn.Tanh(), output)
        for layer in (hidden, output):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
