"""What a layer tells of the gradients of one of its parameters, one gradient an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

LEAST_SHARE = 1e-4
"""A squared norm out of Gram matrices counts as at least this share of what it would be without cancellation.

Its terms may cancel, and float32 keeps an error of 1e-7 of their size. Where less than this share is left, the true
norm may be larger than the digits say by more than 0.1 %, and the example is clipped harder instead.
"""

CLIPPING_MARGIN = 2e-3
"""Share of the clipping norm by which one example may move a sum of clipped gradients further than by the norm itself.

A clipped gradient is too long by .1 % at worst (:data:`LEAST_SHARE`), and rounding moves a float32 sum. Noise is drawn
for a sensitivity that is larger by this share.
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

    def only(self, kept: torch.Tensor) -> Part:
        """Return the same gradients with 0 in place of those of the examples that are not ``kept``, bool, ``(n,)``."""
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

    def only(self, kept: torch.Tensor) -> Explicit:
        """Return the gradients of the examples that are ``kept``, and 0 for the others."""
        return replace(self, gradients=zero_where_not(kept, self.gradients))

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients, each times its factor."""
        total = factors @ self.gradients.flatten(1)
        return self.arrange(total) if self.arrange else total.view(self.parameter.shape)


def zero_where_not(kept: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return a copy of ``values``, ``(n, ...)``, with zeros for the examples that are not ``kept``, bool, ``(n,)``.

    Whatever a value is: 0 times a value that is not finite is not 0.
    """
    copy = values.clone()
    copy[~kept] = 0
    return copy


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
