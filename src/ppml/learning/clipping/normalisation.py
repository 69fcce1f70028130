"""Per-example gradients of group and layer normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from ppml.learning.clipping.gradient_factors import Materialized, PerExampleGradient

Moments = tuple[torch.Tensor, torch.Tensor]
"""Mean and inverse deviation of each group of each example, shape ``(n, groups)``."""


def group_norm_gradients(
    layer: nn.GroupNorm, inputs: torch.Tensor, outputs: torch.Tensor, moments: Moments | None = None
) -> Iterator[PerExampleGradient]:
    """Yield the gradients of scale and shift.

    ``sum_p g_p (x_p - mean) / deviation = (sum_p g_p x_p - mean sum_p g_p) / deviation`` needs no normalised input.

    Parameters
    ----------
    inputs, outputs : torch.Tensor
        Layer inputs and output gradients, shape ``(n, channels, ...)``.
    moments : Moments or None
        Moments of the forward pass; None: computed again.
    """
    inputs, outputs = (values.unsqueeze(-1).flatten(2) for values in (inputs, outputs))
    shift = outputs.sum(2)
    if layer.weight.requires_grad:
        mean, inverse = moments or _moments(layer, inputs)
        size = layer.num_channels // layer.num_groups
        mean, inverse = (value.repeat_interleave(size, dim=1) for value in (mean, inverse))
        yield Materialized(layer.weight, ((outputs * inputs).sum(2) - mean * shift) * inverse)
    if layer.bias.requires_grad:
        yield Materialized(layer.bias, shift)


def _moments(layer: nn.GroupNorm, inputs: torch.Tensor) -> Moments:
    variance, mean = torch.var_mean(inputs.unflatten(1, (layer.num_groups, -1)), (2, 3), correction=0)
    return mean, (variance + layer.eps).rsqrt()


def layer_norm_gradients(
    layer: nn.LayerNorm, inputs: torch.Tensor, outputs: torch.Tensor
) -> Iterator[PerExampleGradient]:
    """Yield the gradients of scale and shift.

    Parameters
    ----------
    inputs, outputs : torch.Tensor
        Layer inputs and output gradients, shape ``(n, ..., *normalized_shape)``.
    """
    shape = layer.weight.shape
    between = tuple(range(1, inputs.dim() - len(shape)))

    def sum_positions(values: torch.Tensor) -> torch.Tensor:
        return values.sum(between) if between else values

    if layer.weight.requires_grad:
        normal = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        yield Materialized(layer.weight, sum_positions(outputs * normal))
    if layer.bias is not None and layer.bias.requires_grad:
        yield Materialized(layer.bias, sum_positions(outputs))
