"""Multinomial logistic regression on the pixels."""

from __future__ import annotations

import torch
from torch import nn


class Logistic(nn.Sequential):
    """One linear layer on the flattened image: 7,850 parameters for 10 classes.

    Parameters
    ----------
    classes : int
        Number of classes; the output has shape ``(n, classes)`` and holds logits.
    generator : torch.Generator
        Not drawn from: the weights start at zero, the loss being convex. Input: ``(n, 1, 28, 28)``.
    """

    def __init__(self, classes: int, generator: torch.Generator) -> None:
        # Without the draw from the global generator that torch makes of a new layer.
        super().__init__(nn.Flatten(), nn.utils.skip_init(nn.Linear, 28 * 28, classes))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
