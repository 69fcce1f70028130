"""The loss of an example, which may come as several copies of itself."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def example_losses(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each example (nats), shape ``(n,)``.

    Parameters
    ----------
    outputs : torch.Tensor
        Logits, shape ``(n, classes)``, or ``(n, copies, classes)`` where an example comes as several augmented copies:
        its loss is then their mean, so that its gradient is their mean, too, and is clipped as one (arXiv 2204.13650).
    labels : torch.Tensor
        int64, shape ``(n,)``.
    """
    if outputs.dim() == 2:
        return functional.cross_entropy(outputs, labels, reduction="none")
    copies = outputs.shape[1]
    losses = functional.cross_entropy(outputs.flatten(0, 1), labels.repeat_interleave(copies), reduction="none")
    return losses.view(-1, copies).mean(dim=1)


def losses_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of each example under ``model``, shape ``(n,)``."""
    if images.dim() == 4:
        # Convolutions on a CPU are about twice as fast in this order.
        images = images.contiguous(memory_format=torch.channels_last)
    return example_losses(model(images), labels)
