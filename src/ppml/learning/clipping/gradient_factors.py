"""Per-example gradients of one parameter, in factored or materialised form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

CANCELLATION_FLOOR = 1e-4
"""Smallest squared norm from Gram matrices, as a fraction of its value without cancellation.

Its terms may cancel, and float32 has an error of 1e-7 of their size. Below this fraction the error of the norm may
exceed 0.1 %; the floor then clips the example harder.
"""

CLIPPING_MARGIN = 2e-3
"""Largest excess of an example's effect on a sum of clipped gradients, as a fraction of the clipping norm.

A clipped gradient is too long by at most .1 % (:data:`CANCELLATION_FLOOR`), and a float32 sum is rounded. The noise
uses a sensitivity that is larger by this fraction.
"""


class PerExampleGradient(Protocol):
    """The gradients of one parameter for each of ``n`` examples, in any form."""

    @property
    def parameter(self) -> torch.Tensor:
        """The parameter of these gradients."""
        ...

    def squared_norms(self) -> torch.Tensor:
        """Return the squared norm of each example's gradient, shape ``(n,)``; at most 0.2 % below the true value."""
        ...

    def zero_except(self, kept: torch.Tensor) -> PerExampleGradient:
        """Return the same gradients with 0 for the examples that are not ``kept``, bool, ``(n,)``."""
        ...

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients, each times its factor, in the shape of the parameter."""
        ...


@dataclass(frozen=True)
class Materialized:
    """Materialised gradients, one per example.

    Parameters
    ----------
    parameter : torch.Tensor
        The parameter of these gradients.
    gradients : torch.Tensor
        Shape ``(n, ...)``.
    arrange : callable
        Reshapes a flat gradient to the parameter; by default the gradient has the order of the parameter.
    """

    parameter: torch.Tensor
    gradients: torch.Tensor
    arrange: Callable[[torch.Tensor], torch.Tensor] | None = None

    def squared_norms(self) -> torch.Tensor:
        """Return the squared norm of each example's gradient, shape ``(n,)``."""
        norms: torch.Tensor = torch.linalg.vector_norm(self.gradients.flatten(1), dim=1)
        return norms.square()

    def zero_except(self, kept: torch.Tensor) -> Materialized:
        """Return the gradients of the ``kept`` examples, and 0 for the others."""
        return replace(self, gradients=zero_rows_except(kept, self.gradients))

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients, each times its factor."""
        total = factors @ self.gradients.flatten(1)
        return self.arrange(total) if self.arrange else total.view(self.parameter.shape)


def zero_rows_except(kept: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return a copy of ``values``, ``(n, ...)``, with zeros for the examples that are not ``kept``, bool, ``(n,)``.

    A product with 0 would keep values that are not finite.
    """
    copy = values.clone()
    copy[~kept] = 0
    return copy


def gram_squared_norms(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return the squared norms of ``sum_p g_p x_p'`` from the Gram matrices of ``x`` and ``g`` over the positions.

    Parameters
    ----------
    inputs, outputs : torch.Tensor
        ``<x_p, x_q>`` and ``<g_p, g_q>``, shape ``(n, groups, positions, positions)``.

    Returns
    -------
    torch.Tensor
        ``sum_pq <x_p, x_q> <g_p, g_q>``, shape ``(n,)``, at least ``CANCELLATION_FLOOR`` times
        ``sum_p |x_p|^2 sum_q |g_q|^2``.
    """
    trace = inputs.diagonal(dim1=-2, dim2=-1).sum(-1) * outputs.diagonal(dim1=-2, dim2=-1).sum(-1)
    product = torch.linalg.vecdot(inputs.flatten(1), outputs.flatten(1))
    return torch.maximum(product, CANCELLATION_FLOOR * trace.sum(1))
