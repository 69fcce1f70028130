"""Epsilon towards data sets that differ in one record replaced by any other record.

A step on two such data sets, with contributions v and w of norm at most 1, releases ``(1 - q) N(0) + q N(v)`` and
``(1 - q) N(0) + q N(w)``. Every such pair is dominated by ``(1 - q) N(0) + q N(1)`` and ``(1 - q) N(0) + q N(-1)``.
At a factor of at least 1 the hockey-stick divergence is ``E h(A, B)`` of the likelihood ratios A and B of N(v) and N(w)
to N(0), with ``h(a, b) = max(0, q a - c b - d)`` for c and d at least 0.

1. A and B are lognormal, and the mixed second derivative of h is at most 0: E h falls with the correlation of their
   logarithms (Slepian's inequality), so that opposite directions are worst.
2. h is convex, and shorter contributions give a conditional expectation of what longer ones give, so that norm 1 is
   worst (Jensen's inequality). Unequal norms become equal by independent noise, then opposite by (1).

At a factor below 1 the divergence follows from that of the swapped pair at the inverse factor, and the pair is
symmetric. Without sampling it is the Gaussian mechanism at twice the sensitivity, whose epsilon is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ppml.accounting import pld
from ppml.accounting import rdp as renyi
from ppml.accounting.cross_check import on_all_records
from ppml.accounting.epsilon import LEAST_NUMERICAL_DELTA, NUMERICAL_LIMIT, epsilon, kinds_and_counts
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent


def epsilon_replace_one(events: Sequence[MechanismEvent], delta: float) -> float:
    """Return an upper bound of the epsilon of ``events`` where one record is replaced by any other.

    Exact where every step is on all records; else by a privacy loss distribution, or, where that fails, twice what one
    record replaced by the null record spends at a smaller delta (two such replacements make one).

    Parameters
    ----------
    events : sequence of MechanismEvent
        As in `ppml.accounting.epsilon.epsilon`.
    delta : float
        In (0, 1).

    Examples
    --------
    >>> full = MechanismEvent(sample_rate=1.0, noise_multiplier=14.328, steps=100, max_grad_norm=0.1)
    >>> round(epsilon_replace_one([full], 1e-5), 2)
    6.47
    """
    kinds, counts = kinds_and_counts(events)
    if not counts:
        return 0.0
    if any(noise == 0 for noise, _ in kinds):
        return math.inf
    if on_all_records(events):
        return epsilon([replace(event, noise_multiplier=event.noise_multiplier / 2) for event in events], delta, "gdp")
    by_two = _by_two_replacements(kinds, counts, delta)
    if delta < LEAST_NUMERICAL_DELTA or by_two > 2 * NUMERICAL_LIMIT:
        return by_two
    try:
        return min(by_two, pld.epsilons_of_replacing(kinds, [counts], delta)[0])
    except AccountantFailed:
        return by_two


def _by_two_replacements(kinds: Sequence[tuple[float, float]], counts: Sequence[int], delta: float) -> float:
    """Return ``2 e`` for the least e that Renyi accounting states at ``delta / (1 + exp(e))``."""
    orders, (spent,) = renyi.costs(kinds, [counts])

    def enough(half: float) -> bool:
        log_delta = math.log(delta) - (half + math.log1p(math.exp(-half)))
        return renyi.converted(orders, spent, log_delta) <= half

    low, high = 0.0, 1.0
    while not enough(high):
        low, high = high, 2 * high
        if high > 1e300:
            return math.inf
    while high - low > 1e-6 * high and low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if enough(middle) else (middle, high)
    return 2 * high
