"""The statement on the norm of an update, its error probabilities, and the sizes for which the argument holds.

An update ``x`` is a vector of integers modulo a prime ``p``; as integers of least absolute value, their squared norm
must be at most ``bound^2``. Modulo the prime alone this means nothing: large squares may sum to a small number.
The proof therefore has two steps.

*No square wraps around.* Each of ``rows`` random vectors ``r`` of -1, 0, 1 (with probabilities 1/4, 1/2, 1/4, drawn
after ``x`` is fixed) must have ``y = <r, x> mod p`` in ``[-M, M)``, where ``M`` is ``interval``. Then ``|x| <= 16 M``,
with an error of at most ``(1 - (127/128)^2 / 3)^rows``:

- If ``|x_i| >= 2M`` for some ``i``: ``r_i`` adds ``-x_i``, 0 or ``x_i`` to the sum of the other terms, and of two
  neighbours among the three results one is outside of the interval. So ``y`` is outside with probability at least 1/2,
  and all rows are inside with probability at most ``2^-rows``.
- Otherwise: ``|<r, x>| < 2M length < p / 2``, so that nothing wraps around, and ``y`` is that sum of integers, of mean
  0 and variance ``s^2 = |x|^2 / 2``. Its fourth moment is at most ``3 s^4``, so that ``y^2 > s^2 / 128`` with
  probability at least ``(127/128)^2 / 3`` (Paley and Zygmund). If ``|x| > 16 M``, then ``s^2 / 128 > M^2``.

*The squares add up to at most* ``bound^2``. If ``|x| <= 16 M`` and ``(16 M)^2 < p``, the sum of squares modulo ``p`` is
that of integers. Its slack, the difference from ``bound^2``, is proven to be a number with as many bits as ``bound^2``,
which no negative number down to ``-(16 M)^2`` is modulo ``p``. Then no value exceeds the bound, either.

An honest ``y`` is sub-Gaussian: it is outside of the interval with probability at most ``2 exp(-(M / bound)^2)``, and
``M`` is at least ``6 bound``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ppml.aggregation.fixed_point import Grid
from ppml.proofs.prime_field import PRIME

SLACK = 6
"""Smallest ratio of the interval to the bound."""

_NORM_FACTOR = 16
"""Largest ratio of the norm to the interval for an update that passes the projections."""

_REJECTION_PROBABILITY = (1 - 1 / 128) ** 2 / 3
"""Least probability that a projection of a larger update is outside of the interval."""


def squared_norm(update: Grid) -> int:
    """Return the exact sum of squares of values below 2^31."""
    squares = update * update
    return (int(np.sum(squares >> 31)) << 31) + int(np.sum(squares & (2**31 - 1)))


@dataclass(frozen=True)
class NormBound:
    """The statement that an update of ``length`` values has a norm of at most ``bound``.

    Parameters
    ----------
    length : int
        Number of values of an update.
    bound : int
        Bound in grid steps.
    rows : int
        Number of random projections.
    points : int
        Values per polynomial of the proof.

    Raises
    ------
    OverflowError
        The field is too small for the statement.

    Examples
    --------
    >>> statement = NormBound.of(length=26_106, norm=1.0, fractional_bits=20)
    >>> statement.bound, statement.interval
    (1048576, 8388608)
    >>> math.log2(statement.soundness_error) < -52
    True
    """

    length: int
    bound: int
    rows: int = 96
    points: int = 128

    def __post_init__(self) -> None:
        if self.length < 1 or self.bound < 1:
            raise ValueError(f"{self.length} values and a bound of {self.bound} steps: both are at least 1")
        furthest = (_NORM_FACTOR * self.interval) ** 2
        if furthest + 2**self.slack_bits > PRIME or 4 * self.interval * self.length >= PRIME:
            raise OverflowError(
                f"a norm of {self.bound} steps at {self.length} values: squares may wrap around modulo 2^61 - 1; "
                "lower the bound or use a coarser grid"
            )

    @classmethod
    def of(cls, length: int, norm: float, fractional_bits: int) -> NormBound:
        """Return the statement for a real norm, rounded down to a grid step."""
        return cls(length, math.floor(norm * 2**fractional_bits))

    def holds(self, update: Grid) -> bool:
        """Return whether the statement is true for an update."""
        inside = len(update) == self.length and int(np.abs(update).max()) <= self.bound
        return inside and squared_norm(update) <= self.bound**2

    @property
    def interval(self) -> int:
        """``M``, a power of 2: projections are proven to be in ``[-M, M)``."""
        return 1 << (SLACK * self.bound - 1).bit_length()

    @property
    def row_bits(self) -> int:
        """Bits of a projection plus ``M``."""
        return self.interval.bit_length()

    @property
    def slack_bits(self) -> int:
        """Bits of the slack, the squared bound minus the squared norm."""
        return (self.bound**2).bit_length()

    @property
    def bits(self) -> int:
        """Number of bits of a proof."""
        return self.rows * self.row_bits + self.slack_bits

    @property
    def soundness_error(self) -> float:
        """Upper bound on the acceptance probability of a larger norm; see :mod:`ppml.proofs.norm_proof`."""
        projections = math.pow(1 - _REJECTION_PROBABILITY, self.rows)
        return projections + 2 * self.points / (PRIME - 2 * self.points - 1) + 1 / PRIME

    @property
    def completeness_error(self) -> float:
        """Upper bound on the probability that an honest client cannot prove its update."""
        return 2 * self.rows * math.exp(-((self.interval / self.bound) ** 2))
