"""Gaussian noise on a grid.

Floating-point noise makes the set of possible outputs depend on the sum (Mironov, CCS 2012; arXiv 2107.10138). So the
sum is rounded to a grid, the noise is a whole number of grid steps, and both are added as integers. The division and
the rounding to float32 follow as post-processing.

Rounded normal noise is the Gaussian mechanism. Let X be the sum in grid steps, and g the normal value. X is an integer,
so ``X + rint(g) = rint(X + g)``: the release is post-processing of X + g, the Gaussian mechanism. (The federation's
distributed noise needs another argument, since several parties round.) Two neighbouring sums differ by the norm of one
contribution and by the effect of rounding; :func:`grid_sensitivity` is the total, and the noise covers it.

The argument uses real normal values. The float64 values are 2^-50 deviations apart, at least 2^20 of them per grid
step: the probability of each step is exact to one part in 10^6, and every step within the range can occur. The range of
the operating system's values ends at 8.6 deviations (one value in 10^17), and both sources are cut off at :data:`TAIL`
deviations. Accountants of real normal values ignore this.
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

CHUNK_VALUES = 1 << 15
"""Noise values per chunk: a chunk stays in the cache until it is added."""

TAIL = 12.0
"""Cut-off of the noise in deviations: the probability beyond it is 10^-32."""

GRID_BITS = 28
"""The deviation of the noise is at least 2^28 grid steps: float32 has 24 bits, so no precision is lost."""

MAX_STEPS = 2.0**62
"""Cut-off of a sum in grid steps, at least 2^33 deviations, so that sum and noise fit in 64 bits."""


class NoiseSource(Protocol):
    """A source of noise for a training."""

    @property
    def source(self) -> str:
        """``"seeded"`` or ``"secure"``."""
        ...

    def rounded_normal(self, count: int, deviation: float) -> Grid:
        """Return normal values of ``deviation`` rounded to integers, int64, shape ``(count,)``."""
        ...


class SeededNoise:
    """Noise that repeats bit for bit from a seed, by the ziggurat method in float64.

    Parameters
    ----------
    generator : np.random.Generator
        Source of the normal values.
    """

    source = "seeded"

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def rounded_normal(self, count: int, deviation: float) -> Grid:
        """Return rounded normal values; see :class:`NoiseSource`."""
        return _round_normal(self._generator.standard_normal(count), deviation)


class SecureNoise:
    """Noise from the operating system's entropy, which cannot be repeated."""

    source = "secure"

    def rounded_normal(self, count: int, deviation: float) -> Grid:
        """Return rounded normal values; see :class:`NoiseSource`."""
        return _round_normal(os_entropy_normal(count), deviation)


def build_noise_source(source: str, rng: Randomness) -> NoiseSource:
    """Return the source "seeded", which draws from ``rng``, or "secure"."""
    return SecureNoise() if source == "secure" else SeededNoise(rng.numpy())


def _round_normal(normal: NDArray[np.float64], deviation: float) -> Grid:
    np.clip(normal, -TAIL, TAIL, out=normal)
    np.multiply(normal, deviation, out=normal)
    return np.rint(normal, out=normal).astype(np.int64)


@dataclass(frozen=True)
class NoiseGrid:
    """A grid and its noise.

    Parameters
    ----------
    step : float
        Distance between neighbouring grid points, a power of two.
    deviation : float
        Standard deviation of the noise in grid steps.
    """

    step: float
    deviation: float


def grid_sensitivity(norm: float, size: int, step: float) -> float:
    """Return the largest change of a sum of ``size`` values on a grid by one contribution of at most ``norm``.

    Rounding adds at most half a ``step`` twice in each value.
    """
    return norm + math.sqrt(size) * step


def noise_grid(noise_multiplier: float, norm: float, size: int) -> NoiseGrid:
    """Return a sufficiently fine grid for the noise of a sum.

    Parameters
    ----------
    noise_multiplier : float
        Deviation of the noise in units of the sensitivity, above 0.
    norm : float
        Largest norm of one contribution, before rounding.
    size : int
        Number of values in the sum.
    """
    _, exponent = math.frexp(noise_multiplier * norm)
    step = 2.0 ** (exponent - 1 - GRID_BITS)
    return NoiseGrid(step, noise_multiplier * grid_sensitivity(norm, size, step) / step)


def add_grid_noise(
    total: torch.Tensor, noise: NoiseSource, grid: NoiseGrid, divisor: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return ``total`` rounded to ``grid``, with noise, divided by ``divisor`` and rounded to ``dtype``.

    The result overwrites ``total`` if the types match, so that no noiseless sum remains in memory. The CPU draws and
    adds the noise for every device, so that it is the same on all.
    """
    values = total.cpu()
    noisy = values if values.dtype == dtype else torch.empty_like(values, dtype=dtype)
    for chunk, into in zip(flat_chunks(values), flat_chunks(noisy), strict=True):
        exact = chunk.numpy().astype(np.float64)
        np.multiply(exact, 1.0 / grid.step, out=exact)
        np.rint(exact, out=exact)
        np.clip(exact, -MAX_STEPS, MAX_STEPS, out=exact)
        steps = exact.astype(np.int64)
        steps += noise.rounded_normal(len(steps), grid.deviation)
        into.numpy()[:] = steps * (grid.step / divisor)
    return noisy.to(total.device)


def flat_chunks(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return flat views of all values in memory order; the values must be contiguous in some order."""
    in_memory = values.permute(sorted(range(values.dim()), key=values.stride, reverse=True))
    split: tuple[torch.Tensor, ...] = in_memory.view(-1).split(CHUNK_VALUES)
    return split


def os_entropy_uniform(count: int) -> NDArray[np.float64]:
    """Return values in (0, 1), shape ``(count,)``, from the operating system's entropy."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def os_entropy_normal(count: int) -> NDArray[np.float64]:
    """Return standard normal values, shape ``(count,)``, from the operating system's entropy by Box and Muller."""
    radius, angle = os_entropy_uniform(2 * count).reshape(2, -1)
    normal: NDArray[np.float64] = np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)
    return normal
