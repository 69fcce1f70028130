"""Renyi differential privacy: an upper bound that never fails, and is never tight.

The composed divergence is that of removing a record, which is at least that of adding it (arXiv 1908.10530, theorem 5),
so the bound holds in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import binom

Floats = NDArray[np.float64]

MIN_INTEGRATED_NOISE = 0.05
"""Below this noise multiplier, interpolation bounds the moments of fractional orders from above."""

INTEGRATION_ERROR = 1e-13
"""Added to the logarithm of an integrated moment: it exceeds the rounding of the sum."""

FEW_ORDERS = (1.25, 1.5, 2, 3, 4, 6, 8, 16, 32, 64)
"""Orders of a rough bound."""

ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(12, 64), 96, 128, 192, 256, 384, 512, 768, 1024)
"""Orders of the bound. A small epsilon needs large orders: no order gives less than ``log(1/delta) / (order - 1)``."""


def epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    """Return epsilon (arXiv 1702.07476, 1908.10530) of each row of ``counts``.

    See `ppml.accounting.epsilon` for the parameters. The result is 0 if the bound is negative.
    """
    orders, rows = rdp_curves(kinds, counts)
    return [rdp_to_epsilon(orders, row, math.log(delta)) for row in rows]


def rough_epsilon(kinds: Sequence[tuple[float, float]], counts: Sequence[int], delta: float) -> float:
    """Return an upper bound of epsilon by few orders, in a tenth of the time."""
    orders, (row,) = rdp_curves(kinds, [counts], FEW_ORDERS)
    return rdp_to_epsilon(orders, row, math.log(delta))


def rdp_curves(
    kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], orders: Sequence[float] = ORDERS
) -> tuple[Floats, list[Floats]]:
    """Return the orders, and for each row of ``counts`` the Renyi divergence at each order."""
    one_step = [_one_step(rate, noise, orders) for noise, rate in kinds]
    return np.asarray(orders, dtype=np.float64), [
        np.sum([count * curve for count, curve in zip(row, one_step, strict=True) if count], axis=0) for row in counts
    ]


def rdp_to_epsilon(orders: Floats, spent: Floats, log_delta: float) -> float:
    """Return the epsilon of the best order, at least 0 (arXiv 2004.00010, proposition 12).

    Parameters
    ----------
    orders, spent : ndarray
        Orders above 1 and the divergence at each.
    log_delta : float
        Natural logarithm of delta, which may be below the smallest floating-point number.
    """
    found = spent + np.log1p(-1 / orders) - (log_delta + np.log(orders)) / (orders - 1)
    return max(0.0, float(found.min()))


def _one_step(rate: float, noise: float, orders: Sequence[float]) -> Floats:
    """Return the Renyi divergence of one step at each order."""
    every = np.asarray(orders, dtype=np.float64)
    if rate == 1:
        with np.errstate(over="ignore"):
            return every / 2 / noise / noise
    whole = every == np.floor(every)
    moments = np.empty_like(every)
    moments[whole] = [_moment(rate, noise, int(order)) for order in every[whole]]
    if noise >= MIN_INTEGRATED_NOISE:
        moments[~whole] = _integrated_moments(rate, noise, every[~whole])
    else:
        moments[~whole] = [_interpolated_moment(rate, noise, order) for order in every[~whole]]
    return np.maximum(moments, 0.0) / (every - 1)


def _moment(rate: float, noise: float, order: int) -> float:
    """Return the logarithm of the moment of a whole order, a sum of positive terms (arXiv 1908.10530, section 3.3)."""
    i = np.arange(order + 1.0)
    with np.errstate(over="ignore"):
        terms = np.log(binom(order, i)) + i * math.log(rate) + (order - i) * math.log1p(-rate)
        terms += i * (i - 1) / 2 / noise / noise
    largest = float(terms.max())
    return largest if math.isinf(largest) else largest + math.log(float(np.exp(terms - largest).sum()))


def _integrated_moments(rate: float, noise: float, orders: Floats) -> Floats:
    """Return the logarithms of ``E (1 - q + q exp((z - 1 / (2 noise)) / noise))^order`` over standard normal z.

    The error of the trapezoidal rule falls exponentially for a function that is smooth on the scale of the step. The
    series of arXiv 1908.10530, section 3.3, takes a million terms for some rates.
    """
    step = min(0.05, noise / 8)
    z = np.arange(-12.0, float(orders.max()) / noise + 12.0, step)
    exponents = np.outer(orders, np.logaddexp(math.log1p(-rate), math.log(rate) + (z - 0.5 / noise) / noise))
    exponents -= z**2 / 2
    largest = exponents.max(axis=1)
    sums = np.exp(exponents - largest[:, None]).sum(axis=1)
    logarithms: Floats = largest + np.log(sums * step / math.sqrt(2 * math.pi)) + INTEGRATION_ERROR
    return logarithms


def _interpolated_moment(rate: float, noise: float, order: float) -> float:
    """Return an upper bound of the logarithm of a moment, which is a convex function of the order."""
    below = math.floor(order)
    fraction = order - below
    return fraction * _moment(rate, noise, below + 1) + (1 - fraction) * _moment(rate, noise, below)
