"""Epsilon of the replace-one relation: any other record replaces one record.

A step on two such data sets, with contributions v and w of norm at most 1, releases ``(1 - q) N(0) + q N(v)`` and
``(1 - q) N(0) + q N(w)``. Every such pair is dominated by ``(1 - q) N(0) + q N(1)`` and ``(1 - q) N(0) + q N(-1)``.
At a factor of at least 1 the hockey-stick divergence is ``E h(A, B)`` of the likelihood ratios A and B of N(v) and N(w)
to N(0), with ``h(a, b) = max(0, q a - c b - d)`` for c and d at least 0.

1. A and B are lognormal, and the mixed second derivative of h is at most 0. By Slepian's inequality, E h falls as the
   correlation of their logarithms grows, so opposite directions are worst.
2. h is convex, and shorter contributions give a conditional expectation of the ratios of longer ones. By Jensen's
   inequality, norm 1 is worst. Independent noise makes unequal norms equal; then (1) makes them opposite.

At a factor below 1 the divergence follows from that of the swapped pair at the inverse factor, and the pair is
symmetric. Without sampling, the step is a Gaussian mechanism of twice the sensitivity, with an exact epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ppml.accounting import pld, rdp
from ppml.accounting.cross_check import is_full_batch
from ppml.accounting.epsilon import MIN_NUMERICAL_DELTA, NUMERICAL_LIMIT, epsilon, kinds_and_counts
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent


def epsilon_replace_one(events: Sequence[MechanismEvent], delta: float) -> float:
    """Return an upper bound of the epsilon of ``events`` under the replace-one relation.

    The bound is exact for full batches. Otherwise a privacy loss distribution gives it, or, if that fails, twice the
    epsilon of a replacement by the null record at a smaller delta (two such replacements make one).

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
    if is_full_batch(events):
        return epsilon([replace(event, noise_multiplier=event.noise_multiplier / 2) for event in events], delta, "gdp")
    by_two = _epsilon_by_two_replacements(kinds, counts, delta)
    if delta < MIN_NUMERICAL_DELTA or by_two > 2 * NUMERICAL_LIMIT:
        return by_two
    try:
        return min(by_two, pld.replace_one_epsilons(kinds, [counts], delta)[0])
    except AccountantFailed:
        return by_two


def _epsilon_by_two_replacements(kinds: Sequence[tuple[float, float]], counts: Sequence[int], delta: float) -> float:
    """Return ``2 e`` for the least e of Renyi accounting at ``delta / (1 + exp(e))``."""
    orders, (spent,) = rdp.rdp_curves(kinds, [counts])

    def is_bound(half: float) -> bool:
        log_delta = math.log(delta) - (half + math.log1p(math.exp(-half)))
        return rdp.rdp_to_epsilon(orders, spent, log_delta) <= half

    low, high = 0.0, 1.0
    while not is_bound(high):
        low, high = high, 2 * high
        if high > 1e300:
            return math.inf
    while high - low > 1e-6 * high and low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if is_bound(middle) else (middle, high)
    return 2 * high
