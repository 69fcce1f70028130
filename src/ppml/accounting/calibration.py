"""Noise calibration: the noise multiplier for a target epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

from ppml.accounting import gdp
from ppml.accounting.cross_check import TIGHTEST, stated_epsilon
from ppml.accounting.epsilon import epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.config.privacy_limits import MAX_NOISE, MIN_NOISE

TOLERANCE, EXACT_TOLERANCE = 5e-3, 1e-6
"""Largest distance of epsilon below its target, by numerical and by exact accounting."""

RELATIVE_TOLERANCE = 0.02
"""The same as a fraction of the target; the smaller distance counts."""

MIN_BRACKET, MIN_EXACT_BRACKET = 1e-3, 1e-9
"""Relative width of the bracket of the noise at which the search ends, by numerical and by exact accounting."""


class UnreachableEpsilon(ValueError):
    """No noise reaches the target epsilon."""

    def __init__(self, smallest: float) -> None:
        super().__init__(f"the smallest epsilon that can be stated is {smallest:.4g}")
        self.smallest = smallest


def calibrate(*, target: float, delta: float, sample_rate: float, steps: int, accountant: str) -> float:
    """Return the smallest noise multiplier, to `TOLERANCE` of epsilon, that spends at most ``target``.

    The search compares the stated epsilon with the target (:func:`ppml.accounting.cross_check.stated_epsilon`). It
    brackets the noise, interpolates if both ends have an epsilon above 0, and bisects otherwise. For ``prv``, ``pld``
    and ``tightest``, the search uses one accountant, and all accountants confirm its result.

    Returns
    -------
    float
        Between `MIN_NOISE` and `MAX_NOISE`; `MIN_NOISE` if it already spends at most ``target``.

    Raises
    ------
    UnreachableEpsilon
        `MAX_NOISE` does not reach the target: accountants cannot state an arbitrarily small epsilon.

    Examples
    --------
    >>> round(calibrate(target=1.0, delta=1e-5, sample_rate=1.0, steps=16, accountant="gdp"), 3)
    14.923
    """

    def spent(noise: float) -> float:
        return stated_epsilon([MechanismEvent(sample_rate, noise, steps, 1.0)], delta, accountant)[0]

    def by_one_accountant(noise: float) -> float:
        event = MechanismEvent(sample_rate, noise, steps, 1.0)
        try:
            return epsilon([event], delta, "pld" if accountant == TIGHTEST else accountant)
        except AccountantFailed:
            return epsilon([event], delta, "rdp")

    exact = sample_rate == 1 and accountant in ("gdp", TIGHTEST)
    tolerance = min(EXACT_TOLERANCE if exact else TOLERANCE, RELATIVE_TOLERANCE * target)
    narrowest = MIN_EXACT_BRACKET if exact else MIN_BRACKET
    start = sample_rate * math.sqrt(steps) / gdp.largest_mu(target, delta)
    if exact or accountant == "rdp":
        return _min_noise(spent, target, tolerance, narrowest, start)
    try:
        found = _min_noise(by_one_accountant, target, tolerance, narrowest, start)
        if target - 2 * tolerance <= spent(found) <= target:
            return found
    except UnreachableEpsilon:
        found = start
    return _min_noise(spent, target, tolerance, narrowest, found)


def _min_noise(
    spent: Callable[[float], float], target: float, tolerance: float, narrowest: float, start: float
) -> float:
    """Return noise that spends at most ``target``, and at least ``target - tolerance`` unless epsilon jumps."""
    low, above, high, reached = _bracket(spent, target, min(MAX_NOISE, max(MIN_NOISE, start)))
    for iteration in count(1):
        if target - reached <= tolerance or high <= low * (1 + narrowest):
            break
        middle = _interpolate(
            low, high, above, reached, target - tolerance / 2, bisect=iteration % 2 == 0 and iteration > 4
        )
        if not low < middle < high:
            break
        value = spent(middle)
        if value > target:
            low, above = middle, value
        else:
            high, reached = middle, value
    return high


def _bracket(spent: Callable[[float], float], target: float, start: float) -> tuple[float, float, float, float]:
    """Return the ends of a bracket: noise that spends more than ``target``, noise that does not, each with epsilon.

    Both are `MIN_NOISE` if no noise spends more.
    """
    factor, noise, value = 2.0, start, spent(start)
    if value > target:
        while value > target:
            if noise >= MAX_NOISE:
                raise UnreachableEpsilon(value)
            low, above = noise, value
            noise = min(MAX_NOISE, noise * factor)
            value, factor = spent(noise), factor**2
        return low, above, noise, value
    while value <= target:
        high, reached = noise, value
        if noise <= MIN_NOISE:
            return MIN_NOISE, math.inf, MIN_NOISE, reached
        noise = max(MIN_NOISE, noise / factor)
        value, factor = spent(noise), min(16.0, factor**2)
    return noise, value, high, reached


def _interpolate(low: float, high: float, above: float, below: float, aim: float, *, bisect: bool) -> float:
    """Return the noise between ``low`` and ``high`` at which a power law of epsilon equals ``aim``."""
    fraction = 0.5
    if not bisect and math.isfinite(above) and below > 0 and aim > 0:
        fraction = math.log(above / aim) / math.log(above / below)
    # At least a twentieth from either end: the curve is no exact power law, and the bracket must shrink.
    return low * math.exp(min(0.95, max(0.05, fraction)) * math.log(high / low))
