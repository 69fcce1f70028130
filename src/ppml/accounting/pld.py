"""Privacy loss distributions, composed numerically by dp-accounting: code and method independent of PRV."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from ppml.accounting.errors import AccountantFailed

ERROR = 0.01
"""Largest error: the result is at least epsilon and, by the choice of the grid, less than this above it."""

MAX_INTERVAL, MIN_INTERVAL = 1e-3, 1e-5
"""Limits of the step of the grid of losses."""

MAX_LOSS = 100.0
"""Largest loss of interest: `ppml.accounting.epsilon.NUMERICAL_LIMIT` bounds epsilon."""

MAX_STEP_CELLS, MAX_CELLS = 2**15, 2**22
"""Largest number of losses of a grid, of one step and composed: a limited grid is coarser, and the bound looser.

dp-accounting takes 15 microseconds for each loss of a step."""


def epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    """Return an upper bound of epsilon (arXiv 2207.04380) for each row of ``counts``.

    See `ppml.accounting.epsilon` for the parameters. Each order of the dominating pair is composed
    separately; the larger epsilon counts.

    Raises
    ------
    AccountantFailed
        The composition gives no finite epsilon, as happens at a very small delta.
    """
    return _compose(kinds, counts, delta, "REPLACE_SPECIAL")


def replace_one_epsilons(
    kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float
) -> list[float]:
    """Return an upper bound of epsilon for data sets in which one example replaces another.

    See :func:`epsilons`; `ppml.accounting.replacing` proves that the composition is an upper bound.
    """
    return _compose(kinds, counts, delta, "REPLACE_ONE")


def _compose(
    kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float, relation: str
) -> list[float]:
    try:
        found = _epsilons(kinds, counts, delta, relation)
    except (ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise AccountantFailed(f"pld: {error}") from error
    if not all(map(math.isfinite, found)):
        raise AccountantFailed(f"pld: the numerical composition gave {found[-1]}")
    return [max(0.0, value) for value in found]


def _epsilons(
    kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float, relation: str
) -> list[float]:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    # Replacing an example by another moves the sum twice as far as removing it.
    moved = 2 if relation == "REPLACE_ONE" else 1
    grid = discretization_interval([(noise / moved, rate) for noise, rate in kinds], max(counts, key=sum), delta)
    steps = [
        privacy_loss_distribution.from_gaussian_mechanism(
            noise,
            sampling_prob=rate,
            value_discretization_interval=grid,
            neighboring_relation=NeighboringRelation[relation],
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
        # dp-accounting scans the losses, and reads all of them if epsilon is 0.
        nothing = float(total.get_delta_for_epsilon(0.0)) <= delta
        found.append(0.0 if nothing else float(total.get_epsilon_for_delta(delta)))
    return found


def discretization_interval(kinds: Sequence[tuple[float, float]], counts: Sequence[int], delta: float) -> float:
    """Return the step of the grid of losses whose rounding adds less than half of ``ERROR`` to epsilon.

    Rounding to a grid of step h adds h^2/6 to the variance of one loss, and half of that to its mean. After n steps
    with variance V in all, epsilon, about ``V/2 + z sqrt(V)``, grows by ``n h^2/12 (1 + z / sqrt(V))``. If that grid
    had too many losses, the step is the finest within the limits.
    """
    steps = sum(counts)
    variance = sum(
        count * rate**2 * math.expm1(min(1 / noise**2, 50.0))
        for (noise, rate), count in zip(kinds, counts, strict=True)
    )
    growth = steps / 12 * (1 + float(ndtri(1 - delta)) / math.sqrt(variance))
    fine = min(MAX_INTERVAL, max(MIN_INTERVAL, math.sqrt(ERROR / 2 / max(growth, 1e-300))))
    widest = max(_width(rate, noise) for noise, rate in kinds)
    # The composition truncates losses beyond about ten deviations from the mean, or far above epsilon.
    composed = min(steps * widest, variance + 20 * math.sqrt(variance) + 40, 4 * MAX_LOSS)
    return max(fine, widest / MAX_STEP_CELLS, composed / MAX_CELLS)


def _width(rate: float, noise: float) -> float:
    """Return the approximate range of the losses of one step within 10 deviations of the noise."""
    unsampled = (10 * noise + 0.5) / noise / noise
    if rate == 1:
        return 2 * unsampled
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) + unsampled)) - math.log1p(-rate)
