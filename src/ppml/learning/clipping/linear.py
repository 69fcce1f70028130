"""Per-example gradients of linear layers and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from ppml.learning.clipping.gradient_factors import (
    Materialized,
    PerExampleGradient,
    gram_squared_norms,
    zero_rows_except,
)


def linear_gradients(layer: nn.Linear, inputs: torch.Tensor, outputs: torch.Tensor) -> Iterator[PerExampleGradient]:
    """Yield the gradients of weight and bias.

    Parameters
    ----------
    inputs : torch.Tensor
        Layer inputs, shape ``(n, ..., in_features)``; all middle dimensions are positions of one example.
    outputs : torch.Tensor
        Output gradients, shape ``(n, ..., out_features)``.
    """
    inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    outputs = outputs.reshape(len(outputs), -1, outputs.shape[-1])
    if layer.weight.requires_grad:
        positions = inputs.shape[1]
        # The gradient has as many values as the weight, the two Gram matrices have 2 T^2.
        if 2 * positions**2 <= layer.weight.numel():
            yield OuterProducts(layer.weight, inputs, outputs)
        else:
            yield Materialized(layer.weight, outputs.mT @ inputs)
    if layer.bias is not None and layer.bias.requires_grad:
        yield Materialized(layer.bias, outputs.sum(1))


@dataclass(frozen=True)
class OuterProducts:
    """Gradients ``sum_p g_p x_p'`` in the factors ``g`` and ``x``.

    Parameters
    ----------
    parameter : torch.Tensor
        Shape ``(out_features, in_features)``.
    inputs, outputs : torch.Tensor
        ``x`` and ``g``, shapes ``(n, positions, in_features)`` and ``(n, positions, out_features)``.
    """

    parameter: torch.Tensor
    inputs: torch.Tensor
    outputs: torch.Tensor

    def squared_norms(self) -> torch.Tensor:
        """Return the squared norm of each example's gradient, shape ``(n,)``."""
        if self.inputs.shape[1] == 1:
            return self.inputs.square().sum((1, 2)) * self.outputs.square().sum((1, 2))
        inputs, outputs = self.inputs[:, None], self.outputs[:, None]
        return gram_squared_norms(inputs @ inputs.mT, outputs @ outputs.mT)

    def zero_except(self, kept: torch.Tensor) -> OuterProducts:
        """Return the gradients of the ``kept`` examples, and 0 for the others."""
        return replace(self, inputs=zero_rows_except(kept, self.inputs), outputs=zero_rows_except(kept, self.outputs))

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients, each times its factor."""
        scaled = self.outputs * factors[:, None, None]
        return scaled.flatten(0, 1).T @ self.inputs.flatten(0, 1)


def embedding_gradients(
    layer: nn.Embedding, inputs: torch.Tensor, outputs: torch.Tensor
) -> Iterator[PerExampleGradient]:
    """Yield the gradient of the embedding table.

    Parameters
    ----------
    inputs : torch.Tensor
        Indices, shape ``(n, ...)``.
    outputs : torch.Tensor
        Output gradients, shape ``(n, ..., embedding_dim)``.
    """
    if layer.weight.requires_grad:
        inputs = inputs.reshape(len(inputs), -1)
        outputs = outputs.reshape(*inputs.shape, -1)
        if layer.padding_idx is not None:
            outputs = outputs * (inputs != layer.padding_idx)[..., None]
        yield EmbeddingRows(layer.weight, inputs, outputs)


@dataclass(frozen=True)
class EmbeddingRows:
    """Gradients of a table from which each position of an example used one row.

    Parameters
    ----------
    parameter : torch.Tensor
        Shape ``(rows, columns)``.
    indices : torch.Tensor
        The row of each position, shape ``(n, positions)``.
    outputs : torch.Tensor
        Output gradients, shape ``(n, positions, columns)``.
    """

    parameter: torch.Tensor
    indices: torch.Tensor
    outputs: torch.Tensor

    def squared_norms(self) -> torch.Tensor:
        """Return the squared norm of each example's gradient, shape ``(n,)``."""
        same = (self.indices[:, :, None] == self.indices[:, None, :]).to(self.outputs.dtype)
        return gram_squared_norms(same[:, None], (self.outputs @ self.outputs.mT)[:, None])

    def zero_except(self, kept: torch.Tensor) -> EmbeddingRows:
        """Return the gradients of the ``kept`` examples, and 0 for the others."""
        return replace(self, outputs=zero_rows_except(kept, self.outputs))

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients, each times its factor."""
        scaled = (self.outputs * factors[:, None, None]).flatten(0, 1)
        return torch.zeros_like(self.parameter).index_add_(0, self.indices.flatten(), scaled)
