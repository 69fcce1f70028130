"""The loss of each example, with or without augmented copies."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def cross_entropies(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each example (nats), shape ``(n,)``.

    Parameters
    ----------
    outputs : torch.Tensor
        Logits, shape ``(n, classes)``, or ``(n, copies, classes)`` if an example comes as several augmented copies. The
        loss of the example is then the mean over its copies. So is its gradient, which is clipped once
        (arXiv 2204.13650).
    labels : torch.Tensor
        int64, shape ``(n,)``.
    """
    if outputs.dim() == 2:
        return functional.cross_entropy(outputs, labels, reduction="none")
    copies = outputs.shape[1]
    losses = functional.cross_entropy(outputs.flatten(0, 1), labels.repeat_interleave(copies), reduction="none")
    return losses.view(-1, copies).mean(dim=1)


def per_example_losses(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of ``model`` on each example, shape ``(n,)``."""
    if images.dim() == 4:
        # Convolutions on a CPU are about twice as fast in this memory format.
        images = images.contiguous(memory_format=torch.channels_last)
    return cross_entropies(model(images), labels)
