"""Statistics of noise and coins; every p-value is of a correct mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from ppml.auditing.reference_gradients import square

SKETCH = 2048
"""Values of each noise vector that are kept, to compare all with all."""


def smallest(p_values: Sequence[float]) -> float:
    """Return one p-value for all of ``p_values`` together, by Bonferroni's inequality; 1 of none."""
    return min(1.0, len(p_values) * min(p_values)) if p_values else 1.0


def too_small(total: float, degrees: int) -> float:
    """Return the p-value of a sum of ``degrees`` squares of standard normal values against smaller ones."""
    return float(special.chdtr(degrees, total))


def two_sided(value: float) -> float:
    """Return the two-sided p-value of a standard normal value."""
    return float(2 * special.ndtr(-abs(value)))


def binomial(successes: int, trials: int, chance: float) -> float:
    """Return the two-sided p-value of a number of successes: twice that of the nearer tail."""
    below = special.bdtr(successes, trials, chance)
    above = special.bdtrc(successes - 1, trials, chance) if successes else 1.0
    return float(min(1.0, 2 * min(below, above)))


@dataclass
class Noise:
    """Statistics of noise that should be standard normal in every value, added up a vector at a time.

    Parameters
    ----------
    shapes : tuple of int
        The size of each parameter tensor.

    Attributes
    ----------
    along : list of float
        Components in directions that records can add to.
    releases : int
        How many vectors there were that a reader of the release sees.
    """

    shapes: tuple[int, ...]
    along: list[float] = field(default_factory=list)
    releases: int = 0
    _tensors: NDArray[np.float64] = field(init=False)
    _fourth: float = 0.0
    _of_release: list[float] = field(default_factory=list)
    _of_party: dict[int, tuple[float, int]] = field(default_factory=dict)
    _of_size: dict[int, tuple[float, int]] = field(default_factory=dict)
    _sketches: list[NDArray[np.float32]] = field(default_factory=list)
    _with_records: float = 0.0
    _records: float = 0.0

    def __post_init__(self) -> None:
        self._tensors = np.zeros(len(self.shapes))

    @property
    def values(self) -> int:
        """Values of a vector."""
        return sum(self.shapes)

    def add_release(self, noise: torch.Tensor, along: Sequence[float], *, size: int, records: torch.Tensor) -> None:
        """Add the noise of one release.

        Parameters
        ----------
        noise : torch.Tensor
            In units of the claimed deviation, shape ``(parameters,)``.
        along : sequence of float
            Its components in directions of records.
        size : int
            The number of records in the sample.
        records : torch.Tensor
            What the records added, in any unit, shape ``(parameters,)``.
        """
        parts = np.zeros(len(self.shapes))
        for place, part in enumerate(noise.split(self.shapes)):
            squares = part.square()
            parts[place] = float(squares.sum(dtype=torch.float64))
            self._fourth += float(squares.square_().sum(dtype=torch.float64))
        self._tensors += parts
        self._of_release.append(float(parts.sum()))
        total, count = self._of_size.get(size, (0.0, 0))
        self._of_size[size] = total + float(parts.sum()), count + 1
        self._with_records += float(noise @ records)
        self._records += square(records)
        self.along += along
        self.releases += 1

    def add_share(self, noise: torch.Tensor, party: int) -> None:
        """Add what one party drew, in units of the deviation that is claimed for it."""
        total, count = self._of_party.get(party, (0.0, 0))
        self._of_party[party] = total + square(noise), count + 1
        # Evenly spaced, so that every tensor is looked at.
        step = max(1, len(noise) // SKETCH)
        self._sketches.append(noise[::step][:SKETCH].cpu().numpy().astype(np.float32))

    def ratio(self) -> float:
        """Return the deviation in the directions of records, in units of the claimed one."""
        return float(np.sqrt(np.mean(np.square(self.along))))

    def sketches(self) -> NDArray[np.float32]:
        """Return some values of every vector, in order, shape ``(vectors, values)``."""
        return np.stack(self._sketches)

    def p_values(self) -> dict[str, float]:
        """Return the p-values of what must hold besides the deviation along records."""
        values, total = self.values, float(self._tensors.sum())
        count = values * self.releases
        fourth = self._fourth * count / total**2 if total else 0.0
        towards = self._with_records / math.sqrt(self._records) if self._records else 0.0
        pairs = zip(self._tensors, self.shapes, strict=True)
        return {
            "tensors": smallest([too_small(own, self.releases * size) for own, size in pairs]),
            "releases": smallest([too_small(own, values) for own in self._of_release]),
            "samples": smallest([too_small(own, values * times) for own, times in self._of_size.values()]),
            "parties": smallest([too_small(own, values * times) for own, times in self._of_party.values()]),
            "shape": two_sided((fourth - 3) / math.sqrt(24 / count)),
            "repeats": likest(self.sketches()),
            "records": two_sided(towards),
        }


def likest(sketches: NDArray[np.float32]) -> float:
    """Return the p-value of the greatest correlation between two of some noise vectors, shape ``(vectors, values)``."""
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


def same_again(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the p-value of the greatest correlation between the vectors of two trainings, each with its own."""
    pairs = [
        float(one @ other) / (float(np.linalg.norm(one) * np.linalg.norm(other)) or 1.0)
        for one, other in zip(first, second, strict=False)
    ]
    return smallest([two_sided(pair * math.sqrt(first.shape[1])) for pair in pairs])


@dataclass
class Coins:
    """Which of an owner's records each step drew.

    Parameters
    ----------
    rate : float
        The claimed rate.
    drawn : list of NDArray[np.bool_]
        Each of shape ``(records,)``.
    """

    rate: float
    drawn: list[NDArray[np.bool_]] = field(default_factory=list)

    @property
    def steps(self) -> NDArray[np.bool_]:
        """All steps, shape ``(steps, records)``."""
        return np.stack(self.drawn)


def coins(owners: Mapping[int, Coins]) -> float:
    """Return the p-value of draws: each record enters each step independently, with the rate of its owner.

    How often a record is drawn, how often a step draws few or many, whether a step tells the next, and whether the
    coins of an owner tell those of another; each count has a binomial law.
    """
    sampled = {owner: one for owner, one in owners.items() if one.drawn and one.rate < 1}
    if any(not one.steps.all() for one in owners.values() if one.drawn and one.rate >= 1):
        return 0.0
    if not sampled:
        return 1.0
    found = [_total(list(sampled.values()))]
    each = [binomial(int(column.sum()), len(column), one.rate) for one in sampled.values() for column in one.steps.T]
    found.append(smallest(each))
    found.append(smallest([value for one in sampled.values() for value in (*_sizes(one), *_lags(one))]))
    found.append(smallest([_shared(first, second) for first, second in _neighbours(list(sampled.values()))]))
    return smallest(found)


def _total(sampled: Sequence[Coins]) -> float:
    """Compare the number of draws, all rates together, with its law, which is nearly normal there."""
    drawn = sum(int(one.steps.sum()) for one in sampled)
    rates = {one.rate for one in sampled}
    if len(rates) == 1:
        return binomial(drawn, sum(one.steps.size for one in sampled), rates.pop())
    return smallest([binomial(int(one.steps.sum()), one.steps.size, one.rate) for one in sampled])


def _sizes(one: Coins) -> list[float]:
    """Compare how many steps drew few, and many, with their chances."""
    steps = one.steps
    counts, records = steps.sum(axis=1), steps.shape[1]
    chances = special.bdtr(np.arange(records + 1), records, one.rate)
    few, many = int((chances < 0.2).sum()), int((chances < 0.8).sum())
    return [
        binomial(int((counts <= few).sum()), len(counts), float(chances[few])),
        binomial(int((counts > many).sum()), len(counts), float(1 - chances[many])),
    ]


def _lags(one: Coins) -> list[float]:
    """Count records that are drawn in two steps in a row, in pairs of steps that share none."""
    found = []
    for start in (0, 1):
        first, second = one.steps[start:-1:2], one.steps[start + 1 :: 2]
        found.append(binomial(int((first & second).sum()), first.size, one.rate**2))
    return found


def _neighbours(sampled: Sequence[Coins]) -> list[tuple[Coins, Coins]]:
    return list(pairwise(sampled))


def _shared(first: Coins, second: Coins) -> float:
    """Count places that two owners draw in the same steps."""
    steps, records = min(len(first.drawn), len(second.drawn)), min(len(first.drawn[0]), len(second.drawn[0]))
    both = first.steps[:steps, :records] & second.steps[:steps, :records]
    return binomial(int(both.sum()), both.size, first.rate * second.rate)
