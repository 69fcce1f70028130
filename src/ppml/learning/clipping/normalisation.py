"""Gradients of the scales and shifts of normalisations that mix no examples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from ppml.learning.clipping.parts import Explicit, Part


def group_norm_parts(layer: nn.GroupNorm, inputs: torch.Tensor, outputs: torch.Tensor) -> Iterator[Part]:
    """Yield the gradients of scale and shift.

    ``sum_p g_p (x_p - mean) / deviation = (sum_p g_p x_p - mean sum_p g_p) / deviation`` needs no normalised input.

    Parameters
    ----------
    inputs, outputs : torch.Tensor
        What the layer took in and the gradient of what it gave out, shape ``(n, channels, ...)``.
    """
    places = tuple(range(2, inputs.dim()))
    shift = outputs.sum(places) if places else outputs
    if layer.weight.requires_grad:
        product = outputs * inputs
        product = product.sum(places) if places else product
        grouped = inputs.unflatten(1, (layer.num_groups, -1))
        variance, mean = torch.var_mean(grouped, tuple(range(2, grouped.dim())), correction=0)
        deviation = (variance + layer.eps).sqrt()
        size = layer.num_channels // layer.num_groups
        mean, deviation = (value.repeat_interleave(size, dim=1) for value in (mean, deviation))
        yield Explicit(layer.weight, (product - mean * shift) / deviation)
    if layer.bias.requires_grad:
        yield Explicit(layer.bias, shift)


def layer_norm_parts(layer: nn.LayerNorm, inputs: torch.Tensor, outputs: torch.Tensor) -> Iterator[Part]:
    """Yield the gradients of scale and shift.

    Parameters
    ----------
    inputs, outputs : torch.Tensor
        What the layer took in and the gradient of what it gave out, shape ``(n, ..., *normalized_shape)``.
    """
    shape = layer.weight.shape
    between = tuple(range(1, inputs.dim() - len(shape)))

    def summed(values: torch.Tensor) -> torch.Tensor:
        return values.sum(between) if between else values

    if layer.weight.requires_grad:
        normal = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        yield Explicit(layer.weight, summed(outputs * normal))
    if layer.bias is not None and layer.bias.requires_grad:
        yield Explicit(layer.bias, summed(outputs))
