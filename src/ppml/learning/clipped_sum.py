"""The sum of clipped gradients of a sample."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.batch_independence import check_batch_independence
from ppml.learning.clipping import BookKeeping
from ppml.learning.loop import select_batch
from ppml.learning.loss import per_example_losses


def clipped_sum(model: nn.Module, examples: Examples, chosen: torch.Tensor, norm: float) -> NDArray[np.float64]:
    """Return the sum of the gradients of ``model`` on the examples at positions ``chosen``, each clipped to ``norm``.

    Shape ``(parameters,)``, in the order of ``model.parameters()``; zeros for an empty sample. A gradient that is not
    finite contributes 0.

    Raises
    ------
    UnsupportedLayer
        A layer has no per-example clipping, or the model mixes examples.
    """
    check_batch_independence(model, examples.inputs)
    images, labels = select_batch(examples, chosen), examples.labels[chosen]
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    model.train()
    with BookKeeping(model) as bookkeeping:
        at_once = bookkeeping.examples_per_pass
        for part, truth in zip(images.split(at_once), labels.split(at_once), strict=True):
            bookkeeping.clipped_gradient_sum(partial(per_example_losses, model, part, truth), len(part), norm)
            for own, parameter in zip(total, parameters, strict=True):
                assert parameter.grad is not None
                own.add_(parameter.grad)
    for parameter in parameters:
        parameter.grad = None
    flat: NDArray[np.float64] = torch.cat([own.reshape(-1) for own in total]).cpu().numpy()
    return flat
