"""Poisson sampling: each example enters each step with an independent coin."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ppml.data.examples import Examples
from ppml.randomness import Randomness

STEPS_PER_BLOCK = 16
"""Steps per hash of an example: 128 bytes per example.

A constant, since an example's coins must not depend on the number of examples.
"""


class PoissonSampler(ABC):
    """The samples of some steps; a second iteration gives the samples of the following steps.

    Parameters
    ----------
    count : int
        Number of examples.
    rate : float
        Probability in (0, 1] that an example enters a step, independently.
    steps : int
        Number of samples per iteration.

    Attributes
    ----------
    kind : str
        ``"poisson"``.
    source : {"seeded", "secure"}
        Source of the coins.
    """

    kind: ClassVar[str] = "poisson"
    source: ClassVar[str]

    def __init__(self, count: int, rate: float, steps: int) -> None:
        self.count, self.rate, self.steps = count, rate, steps
        # Exact for rates of at least 2^-11; smaller rates are rounded by less than 2^-64.
        self._threshold = np.uint64(min(int(rate * 2.0**64), 2**64 - 1))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the positions of each step's sample, ascending, int64."""
        for _ in range(self.steps):
            if self.rate >= 1.0:
                yield torch.arange(self.count)
            else:
                yield torch.from_numpy(np.flatnonzero(self._coins() < self._threshold))

    @abstractmethod
    def _coins(self) -> NDArray[np.uint64]:
        """Return the coins of the next step, uniform over 64 bits, shape ``(count,)``."""


class SeededSampler(PoissonSampler):
    """Poisson sampling that repeats bit for bit.

    The coins of an example are SHAKE128 (FIPS 202) of a key, the example with its label, and its number among equal
    examples. So equal examples have independent coins. If an example is added or removed, every other one keeps its
    coins; equal examples are interchangeable.

    Parameters
    ----------
    examples : Examples
        The data set.
    rate, steps : float, int
        See :class:`PoissonSampler`.
    rng : Randomness
        Source of the hash key.
    """

    source: ClassVar[str] = "seeded"

    def __init__(self, examples: Examples, rate: float, steps: int, rng: Randomness) -> None:
        super().__init__(len(examples), rate, steps)
        # Rate 1 needs no coins, so no digests either.
        self._names = unique_names(examples.digests) if rate < 1.0 else []
        self._key = rng.key
        self._done = 0
        self._block = np.empty((0, 0), dtype=np.uint64)

    def _coins(self) -> NDArray[np.uint64]:
        block, step = divmod(self._done, STEPS_PER_BLOCK)
        if step == 0:
            self._block = self._hash_block(block)
        self._done += 1
        coins: NDArray[np.uint64] = self._block[:, step]
        return coins

    def _hash_block(self, block: int) -> NDArray[np.uint64]:
        """Return the coins of a block of steps, shape ``(count, STEPS_PER_BLOCK)``."""
        prefix, size = self._key + block.to_bytes(8, "little"), 8 * STEPS_PER_BLOCK
        drawn = b"".join([hashlib.shake_128(prefix + name).digest(size) for name in self._names])
        return np.frombuffer(drawn, dtype="<u8").reshape(self.count, STEPS_PER_BLOCK)


class SecureSampler(PoissonSampler):
    """Poisson sampling from the operating system's entropy, which cannot be repeated."""

    source: ClassVar[str] = "secure"

    def _coins(self) -> NDArray[np.uint64]:
        return np.frombuffer(os.urandom(8 * self.count), dtype=np.uint64)


def build_sampler(examples: Examples, rate: float, steps: int, source: str, rng: Randomness) -> PoissonSampler:
    """Return a sampler of ``examples`` with the source "seeded", which uses ``rng``, or "secure"."""
    if source == "secure":
        return SecureSampler(len(examples), rate, steps)
    return SeededSampler(examples, rate, steps, rng)


class Sampling(NamedTuple):
    """The executed sampling, as the sampler states it.

    Parameters
    ----------
    kind : str
        ``"poisson"``, or a class name without a claim of amplification.
    rate : float
        Probability that an example enters a step.
    source : {"seeded", "secure"} or None
        Source of the samples; None if each step takes every example, without a draw.
    """

    kind: str
    rate: float
    source: str | None

    def source_or(self, noise_source: str) -> str:
        """Return the source of the samples; ``noise_source`` without sampling, since noise is then the only draw."""
        return self.source or noise_source


NO_SAMPLES = Sampling(PoissonSampler.kind, 1.0, None)
"""Sampling of steps with all examples or all clients."""


def describe_sampling(sampler: object) -> Sampling:
    """Return the sampling that ``sampler`` executes, independent of the schedule.

    An unknown sampler gets its class name, which has no claim of amplification, rate 1, and the source "seeded". A
    subclass of a known sampler is unknown.
    """
    if isinstance(sampler, PoissonSampler) and type(sampler) in (SeededSampler, SecureSampler):
        return Sampling(sampler.kind, sampler.rate, sampler.source if sampler.rate < 1.0 else None)
    return Sampling(type(sampler).__name__, 1.0, "seeded")


def unique_names(digests: Sequence[bytes]) -> list[bytes]:
    """Return a unique name for each example: its digest and the number of equal examples before it."""
    seen: Counter[bytes] = Counter()
    names = []
    for digest in digests:
        names.append(digest + seen[digest].to_bytes(8, "little"))
        seen[digest] += 1
    return names
