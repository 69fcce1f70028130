"""Per-example clipping of gradients."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ppml.data.examples import Examples
from ppml.errors import UserError
from ppml.learning.clipped_sum import clipped_sum


def clip(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, *, norm: float = 1.0) -> NDArray[np.float64]:
    """Return the sum of the gradients of all examples, each clipped to a norm.

    The gradient of the cross-entropy of each example is multiplied by ``min(1, norm / its length)``. The gradients of
    single examples are never stored. With noise of deviation ``noise_multiplier * norm`` in every value, the sum is a
    step of DP-SGD.

    Parameters
    ----------
    model : nn.Module
        A classifier of linear layers, convolutions and layer or group normalisations. Its weights stay as they are.
    inputs : torch.Tensor
        float32, shape ``(n, ...)``.
    labels : torch.Tensor
        int64, shape ``(n,)``: the classes.
    norm : float
        The largest length of a gradient.

    Returns
    -------
    ndarray, shape ``(parameters,)``
        The sum, in the order of ``model.parameters()``. A gradient that is not finite contributes 0.

    Raises
    ------
    UserError
        A layer has no per-example clipping, the model mixes the examples of a batch, or an argument does not fit.

    Examples
    --------
    >>> model = nn.Linear(2, 2, bias=False)
    >>> total = clip(model, torch.eye(2), torch.tensor([0, 1]), norm=0.1)
    >>> total.shape, bool(np.linalg.norm(total) <= 2 * 0.1)
    ((4,), True)
    """
    if not (math.isfinite(norm) and norm > 0):
        raise UserError(f"norm: got {norm}; allowed: a number above 0")
    if labels.ndim != 1 or labels.dtype != torch.int64 or len(inputs) != len(labels):
        raise UserError(
            f"labels: got {str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)} for inputs of shape "
            f"{tuple(inputs.shape)}; allowed: int64, one for each input"
        )
    training = model.training
    try:
        return clipped_sum(model, Examples(inputs, labels), torch.arange(len(labels)), norm)
    finally:
        model.train(training)
