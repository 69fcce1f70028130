"""The noise that a target epsilon needs."""

from __future__ import annotations

import math

from scipy import optimize

from ppml.accounting import gaussian
from ppml.accounting.agreement import with_fallback
from ppml.accounting.events import MechanismEvent

TOLERANCE = {"prv": 5e-3, "rdp": 5e-3, "pld": 5e-3, "gdp": 1e-6}
"""How far below its target the epsilon of the calibrated noise may stay."""

MOST_NOISE = 1e6
"""A noise multiplier beyond use: what does not spend little under it never will."""


class UnreachableEpsilon(ValueError):
    """No noise spends as little as was asked for."""

    def __init__(self, smallest: float) -> None:
        super().__init__(f"the smallest epsilon that can be stated is {smallest:.4g}")
        self.smallest = smallest


def calibrate(*, target: float, delta: float, sample_rate: float, steps: int, accountant: str) -> float:
    """Return the smallest noise multiplier, to `TOLERANCE` of epsilon, that spends at most ``target``.

    The search brackets and interpolates on the accountant that will state epsilon. Where that fails, at noise so small
    that nothing is private, its number is that of ``rdp``.

    Raises
    ------
    UnreachableEpsilon
        Not even `MOST_NOISE` reaches the target: accountants cannot state an arbitrarily small epsilon.

    Examples
    --------
    >>> round(calibrate(target=1.0, delta=1e-5, sample_rate=1.0, steps=16, accountant="gdp"), 3)
    14.923
    """

    def spent(noise: float) -> float:
        return with_fallback([MechanismEvent(sample_rate, noise, steps, 1.0)], delta, accountant)[0]

    smallest = spent(MOST_NOISE)
    if smallest > target:
        raise UnreachableEpsilon(smallest)
    high = max(0.3, sample_rate * _without_sampling(target, delta, steps))
    while (reached := spent(high)) > target:
        high *= 2
    low, above = high / 2, spent(high / 2)
    while above <= target:
        high, reached = low, above
        low, above = low / 2, spent(low / 2)
    while target - reached > TOLERANCE[accountant]:
        middle = _between(low, high, above, reached, target - TOLERANCE[accountant] / 2)
        if not low < middle < high:
            break
        value = spent(middle)
        if value > target:
            low, above = middle, value
        else:
            high, reached = middle, value
    return high


def _between(low: float, high: float, above: float, below: float, aim: float) -> float:
    """Return the noise between ``low`` and ``high`` where epsilon, about a power of it, should be ``aim``."""
    share = math.log(above / aim) / math.log(above / below) if math.isfinite(above) else 0.5
    # Not closer to either end than a twentieth: the curve bends, and the bracket must shrink.
    return low * math.exp(min(0.95, max(0.05, share)) * math.log(high / low))


def _without_sampling(target: float, delta: float, steps: int) -> float:
    """Return about the noise that ``steps`` steps on all records need; sampling needs less, in proportion."""
    mu = optimize.brentq(lambda mu: gaussian.exact_epsilon(mu, delta) - target, 0.0, 1 + 2 * math.sqrt(target) + target)
    return math.sqrt(steps) / float(mu)
