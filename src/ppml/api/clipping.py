"""Per-example clipping of gradients."""

from __future__ import annotations

import math
from numbers import Real

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
        A classifier of linear layers, convolutions and layer or group normalisations. Its weights, gradients and modes
        stay as they are.
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
    _check(model, inputs, labels, norm)
    # The clipping uses the gradients and the mode of the model.
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        return clipped_sum(model, Examples(inputs, labels), torch.arange(len(labels)), norm)
    except (IndexError, RuntimeError) as error:
        raise UserError(f"the model does not fit inputs and labels: {' '.join(str(error).split())[:200]}") from None
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


def _check(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, norm: float) -> None:
    if not isinstance(model, nn.Module) or not all(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("model: allowed: a module of torch without frozen parameters")
    if not isinstance(norm, Real) or not (math.isfinite(norm) and norm > 0):
        raise UserError(f"norm: got {norm!r}; allowed: a number above 0")
    for key, value, kind in (("inputs", inputs, torch.float32), ("labels", labels, torch.int64)):
        if not isinstance(value, torch.Tensor) or value.dtype != kind or not value.ndim:
            got = (
                f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" if hasattr(value, "dtype") else value
            )
            raise UserError(f"{key}: got {got!s:.60}; allowed: a tensor of {str(kind).removeprefix('torch.')}")
    if labels.shape != inputs.shape[:1]:
        raise UserError(
            f"labels: got {tuple(labels.shape)} for inputs {tuple(inputs.shape)}; allowed: one for each input"
        )
    if (labels < 0).any():
        # PyTorch leaves out an example with a certain negative label.
        raise UserError(f"labels: got {labels.min()}; allowed: classes from 0")
