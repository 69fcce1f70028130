"""What draws a client's steps towards the others: added to every gradient, after noise if there is any.

It depends on public values only, the global model and what earlier rounds released, so that it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn


class Pull(Protocol):
    """Changes the gradients of a step."""

    def adjust(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add to ``grad`` of each parameter, in place."""
        ...


class NoPull:
    """Changes nothing: every client goes where its own records lead."""

    def adjust(self, parameters: Sequence[nn.Parameter]) -> None:
        """Do nothing."""


NO_PULL = NoPull()


class Proximal:
    """The gradient of ``strength / 2 * ||w - w0||^2`` (FedProx, arXiv 1812.06127, equation 2).

    Parameters
    ----------
    strength : float
        Their mu, above 0.
    anchor : sequence of torch.Tensor
        Their w0, the global model: one tensor a parameter.
    """

    def __init__(self, strength: float, anchor: Sequence[torch.Tensor]) -> None:
        self._strength = strength
        self._anchor = anchor

    @torch.no_grad()
    def adjust(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add ``strength * (w - w0)``."""
        for parameter, anchor in zip(parameters, self._anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=self._strength)


class Shift:
    """A constant: the drift of a client from the others, as SCAFFOLD estimates it (arXiv 1910.06378, equation 3).

    Parameters
    ----------
    values : sequence of torch.Tensor
        Their ``c - c_i``: one tensor a parameter.
    """

    def __init__(self, values: Sequence[torch.Tensor]) -> None:
        self._values = values

    @torch.no_grad()
    def adjust(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the constant."""
        for parameter, value in zip(parameters, self._values, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(value)
