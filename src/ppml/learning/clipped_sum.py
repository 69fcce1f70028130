"""The sum of clipped gradients of a sample: what differential privacy adds its noise to."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.batch_independence import refuse_mixing
from ppml.learning.clipping import BookKeeping
from ppml.learning.loop import chosen_images
from ppml.learning.loss import losses_of


def clipped_sum(model: nn.Module, records: Examples, chosen: torch.Tensor, norm: float) -> NDArray[np.float64]:
    """Return the sum of the gradients at ``model`` of the records at positions ``chosen``, each clipped to ``norm``.

    Shape ``(parameters,)``, in the order of ``model.parameters()``; zeros where nothing was chosen. A gradient that is
    not finite contributes 0.

    Raises
    ------
    UnsupportedLayer
        A gradient cannot be clipped for each example, or the model mixes examples.
    """
    refuse_mixing(model, records.images)
    images, labels = chosen_images(records, chosen), records.labels[chosen]
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    model.train()
    with BookKeeping(model) as keeping:
        at_once = keeping.examples_at_once
        for part, truth in zip(images.split(at_once), labels.split(at_once), strict=True):
            keeping.sum_clipped(partial(losses_of, model, part, truth), len(part), norm)
            for own, parameter in zip(total, parameters, strict=True):
                assert parameter.grad is not None
                own.add_(parameter.grad)
    for parameter in parameters:
        parameter.grad = None
    flat: NDArray[np.float64] = torch.cat([own.reshape(-1) for own in total]).cpu().numpy()
    return flat
