"""Gaussian noise in whole steps of a grid.

A sum that floating-point noise is added to has values that not every other sum can have: the set of possible outputs
depends on the sum (Mironov, CCS 2012; arXiv 2107.10138). So the sum is rounded to a grid first, the noise is a whole
number of its steps, both are added as integers, and the division and the rounding to float32 follow, which only
process the release.

Why the rounded normal value is the Gaussian mechanism. Let X be the sum in steps of the grid, and g the normal value.
Since X is whole, ``X + rint(g) = rint(X + g)``: the release depends on X + g alone and is post-processing of the
Gaussian mechanism. (:mod:`ppml.federation.distributed_dp` has the argument for noise that several parties round.) Two
neighbouring sums differ by the norm of one contribution and by the effect of rounding, which :func:`grid_sensitivity`
states and the noise covers.

The argument is about real normal values. The values here are float64: they lie 2^-50 deviations apart, 2^20 and more of
them to a step of the grid, so that a step is hit as often as it should but for one part in 10^6, and no step that the
deviation reaches is left out. Beyond 8.6 deviations (one value in 10^17) the operating system's values end, and noise
of either source is cut off at :data:`TAIL` deviations. An accountant of real normal values sees none of this.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ppml.aggregation.fixed_point import Grid
from ppml.randomness import Randomness

VALUES_AT_ONCE = 1 << 15
"""Values of noise held at a time: they stay in the cache until they are added."""

TAIL = 12.0
"""Deviations that noise is cut off at: beyond lie 10^-32 of it."""

GRID_BITS = 28
"""The deviation of noise on a grid of its own is at least 2^28 steps: float32 has 24 bits, so nothing is lost."""

LARGEST = 2.0**62
"""Steps that a sum is cut off at, 2^33 deviations and more, so that sum and noise fit 64 bits."""


class NoiseSource(Protocol):
    """Where the noise of a training comes from."""

    @property
    def source(self) -> str:
        """``"seeded"`` or ``"secure"``."""
        ...

    def whole(self, count: int, deviation: float) -> Grid:
        """Return normal values of ``deviation`` rounded to whole numbers, int64, shape ``(count,)``."""
        ...


class SeededNoise:
    """Noise that repeats bit for bit from a seed, by the ziggurat method in float64.

    Parameters
    ----------
    generator : np.random.Generator
        What it is drawn from.
    """

    source = "seeded"

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def whole(self, count: int, deviation: float) -> Grid:
        """Return rounded normal values; see :class:`NoiseSource`."""
        return _rounded(self._generator.standard_normal(count), deviation)


class SecureNoise:
    """Noise from the operating system's entropy, which cannot be repeated."""

    source = "secure"

    def whole(self, count: int, deviation: float) -> Grid:
        """Return rounded normal values; see :class:`NoiseSource`."""
        return _rounded(system_normal(count), deviation)


def noise_from(source: str, rng: Randomness) -> NoiseSource:
    """Return the noise of ``source``, "seeded" or "secure"; seeded noise is drawn from ``rng``."""
    return SecureNoise() if source == "secure" else SeededNoise(rng.numpy())


def _rounded(normal: NDArray[np.float64], deviation: float) -> Grid:
    np.clip(normal, -TAIL, TAIL, out=normal)
    np.multiply(normal, deviation, out=normal)
    return np.rint(normal, out=normal).astype(np.int64)


@dataclass(frozen=True)
class NoiseGrid:
    """A grid and the noise on it.

    Parameters
    ----------
    step : float
        The distance between neighbouring grid points, a power of two.
    deviation : float
        Of the noise, in steps.
    """

    step: float
    deviation: float


def grid_sensitivity(norm: float, size: int, step: float) -> float:
    """Return the norm by which a contribution of at most ``norm`` changes a sum of ``size`` values on a grid.

    Rounding may add half a ``step`` twice in each value.
    """
    return norm + math.sqrt(size) * step


def noise_grid(noise_multiplier: float, norm: float, size: int) -> NoiseGrid:
    """Return a grid that is fine enough for the noise of a sum, and the noise on it.

    Parameters
    ----------
    noise_multiplier : float
        Deviation of the noise in units of the sensitivity, above 0.
    norm : float
        Largest norm of one contribution, before rounding.
    size : int
        Values of the sum.
    """
    _, exponent = math.frexp(noise_multiplier * norm)
    step = 2.0 ** (exponent - 1 - GRID_BITS)
    return NoiseGrid(step, noise_multiplier * grid_sensitivity(norm, size, step) / step)


def with_noise(
    total: torch.Tensor, noise: NoiseSource, grid: NoiseGrid, divisor: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return ``total`` rounded to ``grid``, with noise, divided by ``divisor`` and rounded to ``dtype``.

    ``total`` is overwritten where it can be, so that no sum without noise is left. Noise is drawn and added on the CPU,
    whatever the device, so that it is the same on all.
    """
    values = total.cpu()
    noisy = values if values.dtype == dtype else torch.empty_like(values, dtype=dtype)
    for piece, into in zip(pieces(values), pieces(noisy), strict=True):
        exact = piece.numpy().astype(np.float64)
        np.multiply(exact, 1.0 / grid.step, out=exact)
        np.rint(exact, out=exact)
        np.clip(exact, -LARGEST, LARGEST, out=exact)
        whole = exact.astype(np.int64)
        whole += noise.whole(len(whole), grid.deviation)
        into.numpy()[:] = whole * (grid.step / divisor)
    return noisy.to(total.device)


def pieces(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return flat views of all values, which lie side by side, in their order in memory."""
    in_memory = values.permute(sorted(range(values.dim()), key=values.stride, reverse=True))
    split: tuple[torch.Tensor, ...] = in_memory.view(-1).split(VALUES_AT_ONCE)
    return split


def system_uniform(count: int) -> NDArray[np.float64]:
    """Return values in (0, 1), shape ``(count,)``, from the operating system's entropy."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def system_normal(count: int) -> NDArray[np.float64]:
    """Return standard normal values, shape ``(count,)``, from the operating system's entropy by Box and Muller."""
    radius, angle = system_uniform(2 * count).reshape(2, -1)
    normal: NDArray[np.float64] = np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)
    return normal
