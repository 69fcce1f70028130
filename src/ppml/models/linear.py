"""A linear model on features: convex and small, so that noise harms it little."""

from __future__ import annotations

import torch
from torch import nn


class Linear(nn.Sequential):
    """One layer without a bias: one of the features is constant.

    Parameters
    ----------
    shape : tuple of int
        The number of features, alone.
    classes : int
        The number of classes. The model maps ``(n, ..., features)`` to logits ``(n, ..., classes)``.
    generator : torch.Generator
        Not used: the weights start at zero, where every class is equally likely.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> None:
        # A layer of torch would draw from the global generator.
        layer = nn.utils.skip_init(nn.Linear, shape[0], classes, bias=False)
        nn.init.zeros_(layer.weight)
        super().__init__(layer)
