"""What a layer tells of the gradients of one of its parameters, one gradient an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

LEAST_SHARE = 1e-4
"""A squared norm out of Gram matrices counts as at least this share of what it would be without cancellation.

Its terms may cancel, and float32 keeps an error of 1e-7 of their size. Where less than this share is left, the true
norm may be larger than the digits say by more than 0.1 %, and the example is clipped harder instead.
"""


class Part(Protocol):
    """The gradients of one parameter for each of ``n`` examples, in whatever form is cheap."""

    @property
    def parameter(self) -> torch.Tensor:
        """Whose gradients these are."""
        ...

    def squared_norms(self) -> torch.Tensor:
        """Return the squared norm of each example's gradient, shape ``(n,)``; never below the true one by 0.2 %."""
        ...

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients, each times its factor, in the shape of the parameter."""
        ...


@dataclass(frozen=True)
class Explicit:
    """Gradients that are there, one an example.

    Parameters
    ----------
    parameter : torch.Tensor
        Whose gradients these are.
    gradients : torch.Tensor
        Shape ``(n, ...)``.
    arrange : callable
        Brings one of them, flat, into the shape of the parameter; without it, they are in its order.
    """

    parameter: torch.Tensor
    gradients: torch.Tensor
    arrange: Callable[[torch.Tensor], torch.Tensor] | None = None

    def squared_norms(self) -> torch.Tensor:
        """Return the squared norm of each example's gradient, shape ``(n,)``."""
        norms: torch.Tensor = torch.linalg.vector_norm(self.gradients.flatten(1), dim=1)
        return norms.square()

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients, each times its factor."""
        total = factors @ self.gradients.flatten(1)
        return self.arrange(total) if self.arrange else total.view(self.parameter.shape)


def inner_products(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return the squared norms of ``sum_p g_p x_p'`` from the Gram matrices of ``x`` and ``g`` over the positions.

    Parameters
    ----------
    inputs, outputs : torch.Tensor
        ``<x_p, x_q>`` and ``<g_p, g_q>``, shape ``(n, groups, positions, positions)``.

    Returns
    -------
    torch.Tensor
        ``sum_pq <x_p, x_q> <g_p, g_q>``, shape ``(n,)``, at least ``LEAST_SHARE`` of ``sum_p |x_p|^2 sum_q |g_q|^2``.
    """
    trace = inputs.diagonal(dim1=-2, dim2=-1).sum(-1) * outputs.diagonal(dim1=-2, dim2=-1).sum(-1)
    product = torch.linalg.vecdot(inputs.flatten(1), outputs.flatten(1))
    return torch.maximum(product, LEAST_SHARE * trace.sum(1))
