"""Statistics of a few seeds: mean, standard deviation and a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95

IntervalKind = Literal["t", "range", "wilson", "examples", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its interval."""

    mean: float
    """Mean over the seeds, in the unit of the values."""
    deviation: float
    """Standard deviation over the seeds with divisor n - 1; nan with one seed."""
    n: int
    """Number of seeds."""
    low: float
    high: float
    """Ends of the 95 % interval of the mean, or of the range; nan when ``kind`` is ``"none"``."""
    kind: IntervalKind
    """``"t"``: Student's t over the seeds, which covers seeds and partitions. ``"range"``: lowest to highest of two
    seeds, since Student's t with one degree of freedom reaches nine standard deviations. ``"wilson"``: binomial over
    the test examples of the only seed, which covers only the choice of test examples. ``"examples"``: the same by
    resampling, or by DeLong's formula, for a metric other than accuracy. ``"none"``: one seed, and not a fraction."""


def estimate(values: Iterable[float], *, trials: int | None = None) -> Estimate:
    """Return mean, standard deviation and interval of ``values``, one for each seed.

    Parameters
    ----------
    values : iterable of float
        One finite value for each seed, at least one.
    trials : int, optional
        Number of test images behind each value, if the values are fractions. The interval then stays within [0, 1],
        and a single seed has the binomial interval.

    Raises
    ------
    ValueError
        There is no value, or a value is not finite.

    Examples
    --------
    >>> result = estimate([0.95, 0.96, 0.97], trials=2000)
    >>> round(result.mean, 3), round(result.deviation, 3), round(result.low, 3), round(result.high, 3), result.kind
    (0.96, 0.01, 0.935, 0.985, 't')
    >>> estimate([3.0]).kind
    'none'
    """
    sample = np.asarray(list(values), dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"expected at least one value, all finite, got {sample.tolist()}")
    mean, n = float(sample.mean()), int(sample.size)
    if n == 1:
        if trials is None:
            return Estimate(mean, math.nan, n, math.nan, math.nan, "none")
        low, high = wilson_interval(mean, trials)
        return Estimate(mean, math.nan, n, low, high, "wilson")
    deviation = float(sample.std(ddof=1))
    if n == 2:
        return Estimate(mean, deviation, n, float(sample.min()), float(sample.max()), "range")
    low, high = _t_interval(mean, deviation, n)
    if trials is not None:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(mean, deviation, n, low, high, "t")


def _t_interval(mean: float, deviation: float, n: int) -> tuple[float, float]:
    """Return Student's 95 % interval of a mean over ``n`` seeds."""
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
    return mean - reach, mean + reach


def wilson_interval(share: float, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a binomial fraction (Wilson 1927, doi 10.2307/2276774).

    The number of successes need not be whole, for instance with the mean accuracy of several models.

    Examples
    --------
    >>> tuple(round(end, 4) for end in wilson_interval(0.975, 2000))
    (0.9672, 0.981)
    """
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - reach), min(1.0, centre + reach)


@dataclass(frozen=True)
class Difference:
    """The difference of a mean and a multiple of another one, with its interval."""

    value: float
    """First mean minus ``factor`` times the second, in the unit of the values."""
    low: float
    high: float
    """Ends of the 95 % interval."""
    n: int
    """Number of seeds."""
    kind: IntervalKind
    """``"t"``: Student's t over the differences of common seeds. ``"wilson"``: one seed, Newcombe's interval from the
    two binomial ones. It assumes independent images; with the same images it is wider than necessary."""

    def points(self, digits: int) -> str:
        """Return the difference of two fractions and its interval, in percentage points."""
        value, low, high = (f"{100 * end:+.{digits}f}" for end in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def difference(first: Sequence[float], second: Sequence[float], *, trials: int, factor: float = 1.0) -> Difference:
    """Compare two fractions, a value for each seed, the same seeds in the same order.

    With one seed the interval is Newcombe's (1998, Statistics in Medicine 17:873, method 10), with ``factor`` as Zou
    and Donner have it (2008, doi 10.1002/sim.3095).

    Parameters
    ----------
    first, second : sequence of float
        Fractions in [0, 1].
    trials : int
        Number of test images behind each value.
    factor : float
        Factor of the second.

    Raises
    ------
    ValueError
        There is no seed, or the numbers of seeds differ.

    Examples
    --------
    >>> result = difference([0.95], [0.93], trials=2000)
    >>> round(result.value, 3), round(result.low, 4), round(result.high, 4), result.kind
    (0.02, 0.0053, 0.0349, 'wilson')
    """
    if not first or len(first) != len(second):
        raise ValueError(f"expected as many values of both, at least one, got {len(first)} and {len(second)}")
    if len(first) > 1:
        result = estimate([one - factor * other for one, other in zip(first, second, strict=True)])
        # A range supports no claim: a difference of two seeds keeps Student's interval.
        low, high = _t_interval(result.mean, result.deviation, result.n)
        return Difference(result.mean, low, high, result.n, "t")
    one, other = first[0], second[0]
    (low, high), (other_low, other_high) = wilson_interval(one, trials), wilson_interval(other, trials)
    value = one - factor * other
    below = math.hypot(one - low, factor * (other_high - other))
    above = math.hypot(high - one, factor * (other - other_low))
    return Difference(value, value - below, value + above, 1, "wilson")
