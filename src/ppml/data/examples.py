"""Labelled images, or features of them, resident in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Examples:
    """Images and their labels.

    Parameters
    ----------
    images : torch.Tensor
        float32, shape ``(n, channels, height, width)``, normalised with public constants; or features, shape
        ``(n, features)``, or ``(n, copies, features)`` where a training example comes as several copies of itself.
    labels : torch.Tensor
        int64, shape ``(n,)``, values in ``[0, classes)``.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """A digest of each record, its label included, which its random draws are derived from; made once."""
        from ppml.example_draws import record_digests

        return record_digests(self.images, self.labels)

    def select(self, index: torch.Tensor) -> Examples:
        """Return the examples at the positions ``index``, an int64 tensor of shape ``(m,)``."""
        return Examples(self.images[index], self.labels[index])

    def to(self, device: str) -> Examples:
        """Return the same examples on ``device``."""
        return Examples(self.images.to(device), self.labels.to(device))
