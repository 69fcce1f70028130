"""Poisson sampling: each record enters each step by a coin of its own."""

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

STEPS_AT_ONCE = 16
"""Steps that the coins of a record are hashed for at a time, 128 bytes a record.

Not to be chosen by the number of records: the coins of a record must not depend on how many others there are.
"""


class PoissonSampler(ABC):
    """The samples of some steps; iterating again gives those of as many further steps.

    Parameters
    ----------
    count : int
        How many records there are.
    rate : float
        Probability in (0, 1] with which each record enters each step, independently.
    steps : int
        How many samples one iteration gives.

    Attributes
    ----------
    kind : str
        ``"poisson"``.
    source : {"seeded", "secure"}
        Where coins come from.
    """

    kind: ClassVar[str] = "poisson"
    source: ClassVar[str]

    def __init__(self, count: int, rate: float, steps: int) -> None:
        self.count, self.rate, self.steps = count, rate, steps
        # Exact but for rates below 2^-11, which are rounded by less than 2^-64.
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

    The coins of a record are SHAKE128 (FIPS 202) of a key, of the record with its label, and of its number among the
    records that are equal to it. So equal records have independent coins, and where a record is added or removed every
    other one keeps its coins; among equal records, which of them has which coins means nothing.

    Parameters
    ----------
    records : Examples
        What is sampled.
    rate, steps : float, int
        See :class:`PoissonSampler`.
    rng : Randomness
        Its key is that of the hash.
    """

    source: ClassVar[str] = "seeded"

    def __init__(self, records: Examples, rate: float, steps: int, rng: Randomness) -> None:
        super().__init__(len(records), rate, steps)
        # What is not sampled needs no coins: a step on all records is taken without a look at them.
        self._names = told_apart(records.digests) if rate < 1.0 else []
        self._key = rng.key
        self._done = 0
        self._block = np.empty((0, 0), dtype=np.uint64)

    def _coins(self) -> NDArray[np.uint64]:
        block, place = divmod(self._done, STEPS_AT_ONCE)
        if place == 0:
            self._block = self._hashed(block)
        self._done += 1
        coins: NDArray[np.uint64] = self._block[:, place]
        return coins

    def _hashed(self, block: int) -> NDArray[np.uint64]:
        """Return the coins of a block of steps, shape ``(count, STEPS_AT_ONCE)``."""
        prefix, size = self._key + block.to_bytes(8, "little"), 8 * STEPS_AT_ONCE
        drawn = b"".join([hashlib.shake_128(prefix + name).digest(size) for name in self._names])
        return np.frombuffer(drawn, dtype="<u8").reshape(self.count, STEPS_AT_ONCE)


class SecureSampler(PoissonSampler):
    """Poisson sampling from the operating system's entropy, which cannot be repeated."""

    source: ClassVar[str] = "secure"

    def _coins(self) -> NDArray[np.uint64]:
        return np.frombuffer(os.urandom(8 * self.count), dtype=np.uint64)


def build_sampler(records: Examples, rate: float, steps: int, source: str, rng: Randomness) -> PoissonSampler:
    """Return what samples ``records`` with coins from ``source``, "seeded" or "secure"; ``rng`` is for the seeded."""
    if source == "secure":
        return SecureSampler(len(records), rate, steps)
    return SeededSampler(records, rate, steps, rng)


class Sampling(NamedTuple):
    """How samples are drawn, as what draws them says.

    Parameters
    ----------
    kind : str
        ``"poisson"``, or the name of a class for which no amplification is claimed.
    rate : float
        With which a record enters a step.
    source : {"seeded", "secure"} or None
        Where samples come from; None where a step takes every record, and no sample is drawn.
    """

    kind: str
    rate: float
    source: str | None

    def or_of(self, noise_source: str) -> str:
        """Return where samples come from; ``noise_source`` where none are drawn: the step has no other draws."""
        return self.source or noise_source


NO_SAMPLES = Sampling(PoissonSampler.kind, 1.0, None)
"""Steps that every record, or every client, takes part in."""


def sampling(sampler: object) -> Sampling:
    """Return how ``sampler`` draws: a step is stated with what drew its sample, not with the plan.

    What is not known to be Poisson sampling has its own name, for which no amplification is claimed, the rate 1, and
    counts as seeded. A class that is derived from a known one is not known.
    """
    if isinstance(sampler, PoissonSampler) and type(sampler) in (SeededSampler, SecureSampler):
        return Sampling(sampler.kind, sampler.rate, sampler.source if sampler.rate < 1.0 else None)
    return Sampling(type(sampler).__name__, 1.0, "seeded")


def told_apart(digests: Sequence[bytes]) -> list[bytes]:
    """Return a name of each record: its digest, and how many equal records come before it."""
    before: Counter[bytes] = Counter()
    names = []
    for digest in digests:
        names.append(digest + before[digest].to_bytes(8, "little"))
        before[digest] += 1
    return names
