"""Statistics of noise and of sampling; the null hypothesis of every p-value is a correct mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from ppml.auditing.reference_gradients import squared_norm

SKETCH = 2048
"""Number of kept values of each noise vector, for the comparison of all pairs."""


def bonferroni(p_values: Sequence[float]) -> float:
    """Return one p-value for all ``p_values``, by Bonferroni's inequality; 1 without any."""
    return min(1.0, len(p_values) * min(p_values)) if p_values else 1.0


def lower_tail(total: float, degrees: int) -> float:
    """Return the probability of a smaller sum of ``degrees`` squares of standard normal values."""
    return float(special.chdtr(degrees, total))


def two_sided(value: float) -> float:
    """Return the two-sided p-value of a standard normal value."""
    return float(2 * special.ndtr(-abs(value)))


def binomial(successes: int, trials: int, probability: float) -> float:
    """Return the two-sided p-value of a number of successes: twice the probability of the nearer tail."""
    below = special.bdtr(successes, trials, probability)
    above = special.bdtrc(successes - 1, trials, probability) if successes else 1.0
    return float(min(1.0, 2 * min(below, above)))


@dataclass
class NoiseStatistics:
    """Accumulated statistics of noise vectors whose values should be standard normal.

    Parameters
    ----------
    shapes : tuple of int
        The size of each parameter tensor.

    Attributes
    ----------
    along : list of float
        Components in directions of contributions of examples.
    releases : int
        Number of noise vectors of releases.
    """

    shapes: tuple[int, ...]
    along: list[float] = field(default_factory=list)
    releases: int = 0
    _tensors: NDArray[np.float64] = field(init=False)
    _fourth: float = 0.0
    _squares_of_releases: list[float] = field(default_factory=list)
    _squares_by_party: dict[int, tuple[float, int]] = field(default_factory=dict)
    _squares_by_size: dict[int, tuple[float, int]] = field(default_factory=dict)
    _sketches: list[NDArray[np.float32]] = field(default_factory=list)
    _signal_correlation: float = 0.0
    _signal_squares: float = 0.0

    def __post_init__(self) -> None:
        self._tensors = np.zeros(len(self.shapes))

    @property
    def values(self) -> int:
        """Number of values of a vector."""
        return sum(self.shapes)

    def add_release(self, noise: torch.Tensor, along: Sequence[float], *, size: int, signal: torch.Tensor) -> None:
        """Add the noise of one release.

        Parameters
        ----------
        noise : torch.Tensor
            Noise in units of the claimed deviation, shape ``(parameters,)``.
        along : sequence of float
            Its components in directions of examples' gradients.
        size : int
            The number of examples in the sample.
        signal : torch.Tensor
            The examples' part of the release, in any unit, shape ``(parameters,)``.
        """
        sums = np.zeros(len(self.shapes))
        for place, values in enumerate(noise.split(self.shapes)):
            squares = values.square()
            sums[place] = float(squares.sum(dtype=torch.float64))
            self._fourth += float(squares.square_().sum(dtype=torch.float64))
        self._tensors += sums
        self._squares_of_releases.append(float(sums.sum()))
        total, count = self._squares_by_size.get(size, (0.0, 0))
        self._squares_by_size[size] = total + float(sums.sum()), count + 1
        self._signal_correlation += float(noise @ signal)
        self._signal_squares += squared_norm(signal)
        self.along += along
        self.releases += 1

    def add_party_noise(self, noise: torch.Tensor, party: int) -> None:
        """Add the noise of one party, in units of its claimed deviation."""
        total, count = self._squares_by_party.get(party, (0.0, 0))
        self._squares_by_party[party] = total + squared_norm(noise), count + 1
        # Evenly spaced values cover every tensor.
        step = max(1, len(noise) // SKETCH)
        self._sketches.append(noise[::step][:SKETCH].cpu().numpy().astype(np.float32))

    def ratio(self) -> float:
        """Return the deviation in directions of examples, in units of the claimed deviation."""
        return float(np.sqrt(np.mean(np.square(self.along))))

    def sketches(self) -> NDArray[np.float32]:
        """Return the kept values of every vector, in order, shape ``(vectors, values)``."""
        return np.stack(self._sketches)

    def p_values(self) -> dict[str, float]:
        """Return the p-values of all checks of the noise, except of the deviation in directions of examples."""
        values, total = self.values, float(self._tensors.sum())
        count = values * self.releases
        fourth = self._fourth * count / total**2 if total else 0.0
        correlation = self._signal_correlation / math.sqrt(self._signal_squares) if self._signal_squares else 0.0
        pairs = zip(self._tensors, self.shapes, strict=True)
        return {
            "tensors": bonferroni([lower_tail(own, self.releases * size) for own, size in pairs]),
            "releases": bonferroni([lower_tail(own, values) for own in self._squares_of_releases]),
            "samples": bonferroni([lower_tail(own, values * times) for own, times in self._squares_by_size.values()]),
            "parties": bonferroni([lower_tail(own, values * times) for own, times in self._squares_by_party.values()]),
            "shape": two_sided((fourth - 3) / math.sqrt(24 / count)),
            "repeats": correlation_test(self.sketches()),
            "records": two_sided(correlation),
        }


def correlation_test(sketches: NDArray[np.float32]) -> float:
    """Return the p-value of the largest correlation of two noise vectors, shape ``(vectors, values)``."""
    vectors, values = sketches.shape
    if vectors < 2:
        return 1.0
    lengths = np.linalg.norm(sketches, axis=1, keepdims=True)
    if not lengths.all():
        return 0.0
    unit = sketches / lengths
    greatest: float = 0.0
    for start in range(0, vectors, 512):
        products = np.abs(unit[start : start + 512] @ unit.T)
        rows = np.arange(len(products))
        products[rows, start + rows] = 0.0
        greatest = max(greatest, float(products.max()))
    pairs = vectors * (vectors - 1) / 2
    return float(min(1.0, pairs * two_sided(greatest * math.sqrt(values))))


def repeat_test(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the p-value of the largest correlation of corresponding vectors of two trainings."""
    pairs = [
        float(one @ other) / (float(np.linalg.norm(one) * np.linalg.norm(other)) or 1.0)
        for one, other in zip(first, second, strict=False)
    ]
    return bonferroni([two_sided(pair * math.sqrt(first.shape[1])) for pair in pairs])


@dataclass
class Inclusions:
    """The inclusion of each of an owner's examples in the sample of each step.

    Parameters
    ----------
    rate : float
        The claimed sample rate.
    rows : list of NDArray[np.bool_]
        One row of shape ``(examples,)`` per step.
    """

    rate: float
    rows: list[NDArray[np.bool_]] = field(default_factory=list)

    @property
    def matrix(self) -> NDArray[np.bool_]:
        """The inclusions of all steps, shape ``(steps, examples)``."""
        return np.stack(self.rows)


def inclusion_test(owners: Mapping[int, Inclusions]) -> float:
    """Return the p-value of Poisson sampling: each example enters each step independently, with the claimed rate.

    The tests count the inclusions of each example, the small and the large samples, the repetitions in the next step,
    and the coincidences of two owners; each count has a binomial distribution.
    """
    sampled = {owner: one for owner, one in owners.items() if one.rows and one.rate < 1}
    if any(not one.matrix.all() for one in owners.values() if one.rows and one.rate >= 1):
        return 0.0
    if not sampled:
        return 1.0
    found = [_total_inclusions_test(list(sampled.values()))]
    each = [binomial(int(column.sum()), len(column), one.rate) for one in sampled.values() for column in one.matrix.T]
    found.append(bonferroni(each))
    found.append(
        bonferroni(
            [value for one in sampled.values() for value in (*_sample_size_tests(one), *_autocorrelation_tests(one))]
        )
    )
    found.append(bonferroni([_shared_inclusions_test(first, second) for first, second in pairwise(sampled.values())]))
    return bonferroni(found)


def _total_inclusions_test(sampled: Sequence[Inclusions]) -> float:
    """Compare the total number of inclusions with its binomial distribution."""
    total = sum(int(one.matrix.sum()) for one in sampled)
    rates = {one.rate for one in sampled}
    if len(rates) == 1:
        return binomial(total, sum(one.matrix.size for one in sampled), rates.pop())
    return bonferroni([binomial(int(one.matrix.sum()), one.matrix.size, one.rate) for one in sampled])


def _sample_size_tests(one: Inclusions) -> list[float]:
    """Compare the numbers of small and of large samples with their probabilities."""
    inclusions = one.matrix
    counts, examples = inclusions.sum(axis=1), inclusions.shape[1]
    probabilities = special.bdtr(np.arange(examples + 1), examples, one.rate)
    few, many = int((probabilities < 0.2).sum()), int((probabilities < 0.8).sum())
    return [
        binomial(int((counts <= few).sum()), len(counts), float(probabilities[few])),
        binomial(int((counts > many).sum()), len(counts), float(1 - probabilities[many])),
    ]


def _autocorrelation_tests(one: Inclusions) -> list[float]:
    """Compare the number of examples in two successive samples with its distribution, for disjoint pairs of steps."""
    found = []
    for start in (0, 1):
        first, second = one.matrix[start:-1:2], one.matrix[start + 1 :: 2]
        found.append(binomial(int((first & second).sum()), first.size, one.rate**2))
    return found


def _shared_inclusions_test(first: Inclusions, second: Inclusions) -> float:
    """Compare the number of equal positions in the samples of two owners with its distribution."""
    steps, examples = min(len(first.rows), len(second.rows)), min(len(first.rows[0]), len(second.rows[0]))
    both = first.matrix[:steps, :examples] & second.matrix[:steps, :examples]
    return binomial(int(both.sum()), both.size, first.rate * second.rate)
