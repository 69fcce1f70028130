"""Gaussian noise that is added in place."""

from __future__ import annotations

import math
import os
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

VALUES_AT_ONCE = 1 << 15
"""Values of noise held at a time: they stay in the cache until they are added."""


class NoiseSource(Protocol):
    """Where the noise of a training comes from."""

    def add(self, total: torch.Tensor, deviation: float, divisor: float) -> None:
        """Add normal noise of standard ``deviation`` to each value of ``total`` and divide by ``divisor``, in place."""
        ...


def pieces(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return flat views of all values, which lie side by side, in their order in memory."""
    in_memory = values.permute(sorted(range(values.dim()), key=values.stride, reverse=True))
    split: tuple[torch.Tensor, ...] = in_memory.view(-1).split(VALUES_AT_ONCE)
    return split


class SeededNoise:
    """Noise that repeats bit for bit from a seed.

    Values are float32 by Box and Muller from 24 random bits: none lies beyond 5.77 standard deviations, where of true
    normal noise one value in 10^8 does.

    Parameters
    ----------
    generator : torch.Generator
        On the device of the values.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def add(self, total: torch.Tensor, deviation: float, divisor: float) -> None:
        """Add noise and divide, a piece at a time."""
        buffer = torch.empty(VALUES_AT_ONCE, dtype=total.dtype, device=total.device)
        for piece in pieces(total):
            noise = buffer[: len(piece)].normal_(generator=self.generator)
            piece.add_(noise, alpha=deviation).div_(divisor)


class SecureNoise:
    """Noise from the operating system's entropy, which cannot be repeated.

    Four draws are summed and halved, as Opacus' secure mode does, against attacks on floating-point noise
    (arXiv 2107.10138). The sum is taken in float64 and rounded once, so that its last bits do not tell the noise's.
    """

    def add(self, total: torch.Tensor, deviation: float, divisor: float) -> None:
        """Add noise and divide, a piece at a time."""
        for piece in pieces(total):
            noise = torch.stack([system_normal(piece.shape) for _ in range(4)]).sum(dim=0) / 2 * deviation
            piece.copy_(piece.double() + noise.to(piece.device)).div_(divisor)


def system_uniform(count: int) -> NDArray[np.float64]:
    """Return values in (0, 1), shape ``(count,)``, from the operating system's entropy."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def system_normal(shape: torch.Size) -> torch.Tensor:
    """Return standard normal values, float64, made from the operating system's entropy by Box and Muller."""
    uniform = system_uniform(2 * math.prod(shape)).reshape(2, -1)
    normal = np.sqrt(-2.0 * np.log(uniform[0])) * np.cos(2.0 * np.pi * uniform[1])
    return torch.from_numpy(normal).reshape(shape)
