"""The noise that a target epsilon needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

from ppml.accounting import gdp as gaussian
from ppml.accounting.cross_check import TIGHTEST, stated
from ppml.accounting.epsilon import epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.accounting.limits import LEAST_NOISE, MOST_NOISE

TOLERANCE, EXACT_TOLERANCE = 5e-3, 1e-6
"""How far below its target the epsilon of the calibrated noise may stay, by numerical and by exact accounting."""

SHARE_BELOW = 0.02
"""The same as a share of the target, where that is less."""

NARROWEST, NARROWEST_EXACT = 1e-3, 1e-9
"""Within which share of itself noise is found where epsilon jumps over the tolerance."""


class UnreachableEpsilon(ValueError):
    """No noise spends as little as was asked for."""

    def __init__(self, smallest: float) -> None:
        super().__init__(f"the smallest epsilon that can be stated is {smallest:.4g}")
        self.smallest = smallest


def calibrate(*, target: float, delta: float, sample_rate: float, steps: int, accountant: str) -> float:
    """Return the smallest noise multiplier, to `TOLERANCE` of epsilon, that spends at most ``target``.

    The number compared with the target is the one that will be stated (:func:`ppml.accounting.cross_check.stated`). The
    search brackets the noise, and interpolates where both ends have an epsilon above 0, else bisects; for ``prv``,
    ``pld`` and ``tightest`` it asks one accountant, and all of them at its end.

    Returns
    -------
    float
        Between `LEAST_NOISE` and `MOST_NOISE`; `LEAST_NOISE` where even that spends at most ``target``.

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
        return stated([MechanismEvent(sample_rate, noise, steps, 1.0)], delta, accountant)[0]

    def by_one(noise: float) -> float:
        event = MechanismEvent(sample_rate, noise, steps, 1.0)
        try:
            return epsilon([event], delta, "pld" if accountant == TIGHTEST else accountant)
        except AccountantFailed:
            return epsilon([event], delta, "rdp")

    exact = sample_rate == 1 and accountant in ("gdp", TIGHTEST)
    tolerance = min(EXACT_TOLERANCE if exact else TOLERANCE, SHARE_BELOW * target)
    narrowest = NARROWEST_EXACT if exact else NARROWEST
    start = sample_rate * math.sqrt(steps) / gaussian.largest_mu(target, delta)
    if exact or accountant == "rdp":
        return _least_noise(spent, target, tolerance, narrowest, start)
    try:
        found = _least_noise(by_one, target, tolerance, narrowest, start)
        if target - 2 * tolerance <= spent(found) <= target:
            return found
    except UnreachableEpsilon:
        found = start
    return _least_noise(spent, target, tolerance, narrowest, found)


def _least_noise(
    spent: Callable[[float], float], target: float, tolerance: float, narrowest: float, start: float
) -> float:
    """Return noise that spends at most ``target``, and less by at most ``tolerance`` where epsilon does not jump."""
    low, above, high, reached = _bracket(spent, target, min(MOST_NOISE, max(LEAST_NOISE, start)))
    for turn in count(1):
        if target - reached <= tolerance or high <= low * (1 + narrowest):
            break
        middle = _between(low, high, above, reached, target - tolerance / 2, bisect=turn % 2 == 0 and turn > 4)
        if not low < middle < high:
            break
        value = spent(middle)
        if value > target:
            low, above = middle, value
        else:
            high, reached = middle, value
    return high


def _bracket(spent: Callable[[float], float], target: float, start: float) -> tuple[float, float, float, float]:
    """Return noise that spends more than ``target``, its epsilon, noise that spends at most ``target``, its epsilon.

    Both are `LEAST_NOISE` where no noise spends more.
    """
    factor, noise, value = 2.0, start, spent(start)
    if value > target:
        while value > target:
            if noise >= MOST_NOISE:
                raise UnreachableEpsilon(value)
            low, above = noise, value
            noise = min(MOST_NOISE, noise * factor)
            value, factor = spent(noise), factor**2
        return low, above, noise, value
    while value <= target:
        high, reached = noise, value
        if noise <= LEAST_NOISE:
            return LEAST_NOISE, math.inf, LEAST_NOISE, reached
        noise = max(LEAST_NOISE, noise / factor)
        value, factor = spent(noise), min(16.0, factor**2)
    return noise, value, high, reached


def _between(low: float, high: float, above: float, below: float, aim: float, *, bisect: bool) -> float:
    """Return the noise between ``low`` and ``high`` where epsilon, about a power of it, should be ``aim``."""
    share = 0.5
    if not bisect and math.isfinite(above) and below > 0 and aim > 0:
        share = math.log(above / aim) / math.log(above / below)
    # Not closer to either end than a twentieth: the curve bends, and the bracket must shrink.
    return low * math.exp(min(0.95, max(0.05, share)) * math.log(high / low))
