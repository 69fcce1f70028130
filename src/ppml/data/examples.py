"""Labelled examples, resident in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Examples:
    """Inputs and their labels.

    Parameters
    ----------
    inputs : torch.Tensor
        float32, shape ``(n, *contract.shape)``, normalised with public constants. Features may have the shape
        ``(n, copies, features)``: several copies of each training example.
    labels : torch.Tensor
        int64, shape ``(n,)``, values in ``[0, classes)``.
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """The digest of each example and its label; the random draws of the example are derived from it."""
        from ppml.example_draws import example_digests

        return example_digests(self.inputs, self.labels)

    def select(self, index: torch.Tensor) -> Examples:
        """Return the examples at the positions ``index``, an int64 tensor of shape ``(m,)``."""
        return Examples(self.inputs[index], self.labels[index])

    def to(self, device: str) -> Examples:
        """Return the same examples on ``device``."""
        return Examples(self.inputs.to(device), self.labels.to(device))
