"""What is proven of an update's norm, with which error, and for which sizes the argument holds.

An update ``x`` is a vector of integers modulo a prime ``p``; read as integers of least size, its squared norm is to be
at most ``bound^2``. Modulo the prime alone that says nothing: squares of huge numbers may add up to a small one. So it
is proven in two steps.

*No square wraps round.* Each of ``rows`` random vectors ``r`` of -1, 0, 1 (with probabilities 1/4, 1/2, 1/4, drawn
once ``x`` is fixed) must have ``y = <r, x> mod p`` in ``[-M, M)``, where ``M`` is ``interval``. Then ``|x| <= 16 M``,
but for an error of at most ``(1 - (127/128)^2 / 3)^rows``:

- If ``|x_i| >= 2M`` for some ``i``: whatever the other values come to, ``r_i`` adds ``-x_i``, 0 or ``x_i`` to it, and
  of two neighbours among the three sums one is outside the interval. So ``y`` is outside with probability 1/2 at
  least, and all rows are inside with ``2^-rows`` at most.
- If there is no such ``i``: ``|<r, x>| < 2M length < p / 2``, so that nothing wraps, and ``y`` is that sum of
  integers, of mean 0 and variance ``s^2 = |x|^2 / 2``. Its fourth moment is at most ``3 s^4``, so that ``y^2 > s^2 /
  128`` with probability ``(127/128)^2 / 3`` at least (Paley and Zygmund). If ``|x| > 16 M``, then ``s^2 / 128 >
  M^2``.

*The squares add up to at most* ``bound^2``. Where ``|x| <= 16 M`` and ``(16 M)^2 < p``, the sum of squares modulo ``p``
is that of integers. What it leaves of ``bound^2`` is shown to be a number of as many bits as ``bound^2`` has, which no
negative number down to ``-(16 M)^2`` is modulo ``p``. No value exceeds the bound then, either.

An honest ``y`` is sub-Gaussian: it is outside the interval with probability at most ``2 exp(-(M / bound)^2)``, and
``M`` is at least ``6 bound``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ppml.aggregation.fixed_point import Grid
from ppml.proofs.prime_field import PRIME

SLACK = 6
"""The interval is at least so many times the bound."""

_NORM_FACTOR = 16
"""Who passes the projections has a norm of at most so many intervals."""

_REJECTION_PROBABILITY = (1 - 1 / 128) ** 2 / 3
"""How probably one projection of a larger update misses the interval, at least."""


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
        Values of an update.
    bound : int
        In steps of the grid.
    rows : int
        Random projections.
    points : int
        Values that one polynomial of the proof goes through.

    Raises
    ------
    OverflowError
        The field is too small for it.

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
                f"a norm of {self.bound} steps at {self.length} values: squares may wrap round modulo 2^61 - 1; "
                "lower the bound or take a coarser grid"
            )

    @classmethod
    def of(cls, length: int, norm: float, fractional_bits: int) -> NormBound:
        """Return the statement for a real norm on a grid, rounded down to a step."""
        return cls(length, math.floor(norm * 2**fractional_bits))

    def holds(self, update: Grid) -> bool:
        """Return whether it is true of an update."""
        inside = len(update) == self.length and int(np.abs(update).max()) <= self.bound
        return inside and squared_norm(update) <= self.bound**2

    @property
    def interval(self) -> int:
        """``M``: projections are shown to lie in ``[-M, M)``; a power of 2."""
        return 1 << (SLACK * self.bound - 1).bit_length()

    @property
    def row_bits(self) -> int:
        """Bits of a projection, once ``M`` is added."""
        return self.interval.bit_length()

    @property
    def slack_bits(self) -> int:
        """Bits of what the squares leave of the bound's."""
        return (self.bound**2).bit_length()

    @property
    def bits(self) -> int:
        """Bits that a proof shows to be 0 or 1."""
        return self.rows * self.row_bits + self.slack_bits

    @property
    def soundness_error(self) -> float:
        """How probably an update of a larger norm is accepted, at most; see :mod:`ppml.proofs.norm_proof`."""
        projections = math.pow(1 - _REJECTION_PROBABILITY, self.rows)
        return projections + 2 * self.points / (PRIME - 2 * self.points - 1) + 1 / PRIME

    @property
    def completeness_error(self) -> float:
        """How probably an honest client cannot prove its update, at most."""
        return 2 * self.rows * math.exp(-((self.interval / self.bound) ** 2))
