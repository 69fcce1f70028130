"""Sums of clipped gradients by definition: example by example, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ppml.learning.clipping import BookKeeping
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.clipping.convolution import GramMatrices

Losses = Callable[[nn.Module, torch.Tensor], torch.Tensor]

FORMS = {
    "explicit": lambda one: one.materialize(),
    "patches": lambda one: GramMatrices(one, unfolded=True),
    "pixels": lambda one: GramMatrices(one, unfolded=False),
}
"""Forms of the gradients of a convolution."""
WRONG = 2
"""Position of an example that is not finite."""


def null(all_parts, max_grad_norm, *, true=bookkeeping.clipping_factors):
    """Return the factors with 0 for the example that is not finite, so that it contributes nothing."""
    factors = true(all_parts, max_grad_norm)
    factors[WRONG] = 0.0
    return factors


def seeded(*shape: int) -> torch.Tensor:
    """Return normal values that the shape decides."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def squares(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return a loss per example whose gradient differs between outputs."""
    outputs = model(inputs).flatten(1)
    return ((outputs - torch.linspace(-1.0, 2.0, outputs.shape[1], dtype=outputs.dtype)) ** 2).sum(1)


def gradients(model: nn.Module, inputs: torch.Tensor, losses: Losses = squares) -> list[list[torch.Tensor]]:
    """Return each example's gradient of each trainable parameter."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for example in inputs.split(1):
        found = torch.autograd.grad(losses(model, example).sum(), trained, allow_unused=True)
        rows.append([torch.zeros_like(one) if got is None else got for one, got in zip(trained, found, strict=True)])
    return rows


def norms(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    """Return the norm of each example's gradient over all parameters."""
    return torch.stack([torch.cat([one.flatten() for one in row]).norm() for row in rows])


def check_sums(model: nn.Module, inputs: torch.Tensor, losses: Losses = squares) -> None:
    """Compare with the definition at a clipping norm between the examples' norms."""
    model = model.double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = gradients(model, inputs, losses)
    norm = norms(rows).median().item() * 0.9 if rows else 1.0
    factors = (norm / (norms(rows) + 1e-6)).clamp(max=1.0) if rows else []
    with BookKeeping(model) as keeping:
        keeping.clipped_gradient_sum(lambda: losses(model, inputs), len(inputs), norm)
    for number, parameter in enumerate(trained):
        expected = sum((f * row[number] for f, row in zip(factors, rows, strict=True)), torch.zeros_like(parameter))
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.stride() == parameter.stride()
        assert torch.allclose(parameter.grad, expected, rtol=1e-9, atol=1e-9 * norm)
