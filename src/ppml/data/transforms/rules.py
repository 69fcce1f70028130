"""Build a transform from its configuration."""

from __future__ import annotations

from typing import Protocol

import torch

from ppml.config.transforms import Binned, Patches, Scattering
from ppml.contract import DataContract
from ppml.randomness import Randomness


class TransformRule(Protocol):
    """A fixed rule: the output of an example depends on this example and on public values alone."""

    def copies(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the output of training examples, ``(n, size)``, or ``(n, copies, size)``."""

    def viewed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the output of examples to predict, ``(n, size)``."""


def build_transform(settings: Scattering | Patches | Binned, contract: DataContract, rng: Randomness) -> TransformRule:
    """Return the rule of ``settings`` for raw examples of ``contract``, with public randomness from ``rng``."""
    # Imports in the branches, so that the code digest of a job counts the rule that it uses.
    match settings:
        case Scattering() | Patches():
            from ppml.data.transforms.extractor import ImageFeatures

            return ImageFeatures(settings, rng, contract.shape)
        case Binned():
            from ppml.data.transforms.bins import BinnedNumbers

            return BinnedNumbers(settings, contract)
