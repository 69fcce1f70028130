"""Privacy loss distributions, composed numerically, by dp-accounting: other code, and another method, than PRV."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import norm

from ppml.accounting.failure import AccountantFailed

ERROR = 0.01
"""What is stated is at least epsilon and, by the choice of the grid, less than this above it."""

COARSEST, FINEST = 1e-3, 1e-5


def epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    """Return an upper bound of epsilon (arXiv 2207.04380) for each row of ``counts``.

    See `ppml.accounting.epsilon` for the parameters. A record added and a record removed are composed apart; the larger
    epsilon counts.

    Raises
    ------
    AccountantFailed
        The composition gave no finite number, as happens at a very small delta.
    """
    from dp_accounting.pld import privacy_loss_distribution

    grid = interval(kinds, max(counts, key=sum), delta)
    steps = [
        privacy_loss_distribution.from_gaussian_mechanism(
            noise,
            sampling_prob=rate,
            value_discretization_interval=grid,
            # The default of `neighboring_relation`: one record added or removed.
            pessimistic_estimate=True,
        )
        for noise, rate in kinds
    ]
    found = []
    for row in counts:
        taken = [step.self_compose(count) for step, count in zip(steps, row, strict=True) if count]
        total = taken[0]
        for other in taken[1:]:
            total = total.compose(other)
        found.append(float(total.get_epsilon_for_delta(delta)))
    if not all(map(math.isfinite, found)):
        raise AccountantFailed(f"pld: the numerical composition gave {found[-1]}")
    return found


def interval(kinds: Sequence[tuple[float, float]], counts: Sequence[int], delta: float) -> float:
    """Return the step of the grid of losses at which the rounding adds less than half of ``ERROR`` to epsilon.

    Rounding to a grid of step h adds h^2/6 to the variance of one loss, and half of that to its mean. After n steps
    with variance V in all, epsilon, about ``V/2 + z sqrt(V)``, grows by ``n h^2/12 (1 + z / sqrt(V))``.
    """
    steps = sum(counts)
    variance = sum(
        count * rate**2 * math.expm1(min(1 / noise**2, 50.0))
        for (noise, rate), count in zip(kinds, counts, strict=True)
    )
    growth = steps / 12 * (1 + float(norm.isf(delta)) / math.sqrt(variance))
    return min(COARSEST, max(FINEST, math.sqrt(ERROR / 2 / growth)))
