"""Gradient corrections against client drift (FedProx, SCAFFOLD), added after the noise.

A correction depends on public values only, the global model and earlier releases, so it has no privacy cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn


class GradientCorrection(Protocol):
    """Changes the gradients of a step."""

    def add_to_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the correction to ``grad`` of each parameter, in place."""
        ...


class ZeroCorrection:
    """No correction, as in FedAvg."""

    def add_to_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Do nothing."""


NO_CORRECTION = ZeroCorrection()


class Proximal:
    """The gradient of ``strength / 2 * ||w - w0||^2`` (FedProx, arXiv 1812.06127, equation 2).

    Parameters
    ----------
    strength : float
        The paper's mu, above 0.
    anchor : sequence of torch.Tensor
        The paper's w0, the global model: one tensor per parameter.
    """

    def __init__(self, strength: float, anchor: Sequence[torch.Tensor]) -> None:
        self._strength = strength
        self._anchor = anchor

    @torch.no_grad()
    def add_to_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add ``strength * (w - w0)``."""
        for parameter, anchor in zip(parameters, self._anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=self._strength)


class ConstantOffset:
    """A constant: the client's drift as SCAFFOLD estimates it (arXiv 1910.06378, equation 3).

    Parameters
    ----------
    values : sequence of torch.Tensor
        The paper's ``c - c_i``: one tensor per parameter.
    """

    def __init__(self, values: Sequence[torch.Tensor]) -> None:
        self._values = values

    @torch.no_grad()
    def add_to_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the constant."""
        for parameter, value in zip(parameters, self._values, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(value)
