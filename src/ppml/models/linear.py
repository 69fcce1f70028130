"""A linear model on features: convex, and as small as a model can be, which is what noise is kindest to."""

from __future__ import annotations

import torch
from torch import nn


class Linear(nn.Sequential):
    """One layer without a bias, which features bring as a constant.

    Parameters
    ----------
    features, classes : int
        Maps ``(n, ..., features)`` to logits ``(n, ..., classes)``.
    generator : torch.Generator
        Nothing is drawn: the weights start at zero, where every class is equally likely.
    """

    def __init__(self, features: int, classes: int, generator: torch.Generator) -> None:
        # Without the draw from the global generator that torch makes of a new layer.
        layer = nn.utils.skip_init(nn.Linear, features, classes, bias=False)
        nn.init.zeros_(layer.weight)
        super().__init__(layer)
