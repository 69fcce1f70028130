"""Logits, loss and accuracy of a model."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ppml.data.examples import Examples


@torch.no_grad()
def logits(model: nn.Module, images: torch.Tensor, *, batch_size: int = 250) -> torch.Tensor:
    """Return the logits of ``model`` for ``images``, shape ``(n, classes)``.

    The batch size is fixed, because the last bits of a matrix product depend on its shape; it is small enough for the
    cache. The weights get the memory format of the training, in which small convolutions are twice as fast.
    """
    model.to(memory_format=torch.channels_last)
    model.eval()
    return torch.cat([model(batch) for batch in images.split(batch_size)])


def score(outputs: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return the mean cross-entropy (nats; lower is better) and the accuracy (in [0, 1]; higher is better)."""
    loss = functional.cross_entropy(outputs, labels).item()
    accuracy = (outputs.argmax(dim=1) == labels).double().mean().item()
    return loss, accuracy


def evaluate(model: nn.Module, examples: Examples) -> tuple[float, float]:
    """Return loss and accuracy of ``model`` on ``examples``."""
    return score(logits(model, examples.inputs), examples.labels)
