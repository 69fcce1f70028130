"""A linear model on features: convex, and as small as a model can be, which is what noise is kindest to."""

from __future__ import annotations

import torch
from torch import nn


class Linear(nn.Linear):
    """One layer without a bias, which features bring as a constant.

    Parameters
    ----------
    features, classes : int
        Maps ``(n, ..., features)`` to logits ``(n, ..., classes)``.
    generator : torch.Generator
        Nothing is drawn: the weights start at zero, where every class is equally likely.
    """

    def __init__(self, features: int, classes: int, generator: torch.Generator) -> None:
        super().__init__(features, classes, bias=False)

    def reset_parameters(self) -> None:
        """Set the weights to zero, without the draw from the global generator that torch makes here."""
        nn.init.zeros_(self.weight)
