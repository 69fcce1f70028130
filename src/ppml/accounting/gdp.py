"""Gaussian differential privacy: the closed form of epsilon of Gaussian mechanisms without sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import erfcx, log_ndtr

from ppml.accounting.errors import AccountantFailed

TOLERANCE = 1e-9
"""Tolerance of the root, added to it, so that the stated epsilon is never below the exact one."""


def exact_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon that a ``mu``-GDP mechanism satisfies at ``delta``.

    The root of ``delta = Phi(-eps/mu + mu/2) - exp(eps) Phi(-eps/mu - mu/2)`` (arXiv 1905.02383, corollary 1), exact
    for the composition of Gaussian mechanisms without sampling, with ``mu = sqrt(sum steps / noise_multiplier^2)``. The
    bisection starts from 0 and a tail bound; only the sign of a difference counts.

    Parameters
    ----------
    mu : float
        At least 0.
    delta : float
        In (0, 1).

    Returns
    -------
    float
        At least 0: 0 if ``delta`` is at least the total variation; infinity if epsilon exceeds the range of a float.

    Examples
    --------
    >>> round(exact_epsilon(1.0, 1e-5), 4)
    4.3772
    >>> exact_epsilon(0.02, 0.01)
    0.0
    """
    # At epsilon 0 the two terms of delta cancel; the error function avoids the difference.
    if math.erf(mu / math.sqrt(8)) <= delta:
        return 0.0
    # P(loss > high) <= delta: the loss is normal with mean mu^2 / 2 and deviation mu.
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    if math.isinf(high):
        return math.inf
    aim = math.log(delta)
    while high - low > TOLERANCE and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _log_delta(middle, mu) > aim else (low, middle)
    return high + TOLERANCE


def _log_delta(epsilon: float, mu: float) -> float:
    """Return the logarithm of delta at ``epsilon``; the terms of delta itself overflow and underflow."""
    first, second = -epsilon / mu + mu / 2, -epsilon / mu - mu / 2
    # Phi(x) = erfcx(-x / sqrt(2)) exp(-x^2 / 2) / 2, and half the squares differ by epsilon: the exponentials cancel.
    factor = 1 - float(erfcx(-second / math.sqrt(2)) / erfcx(-first / math.sqrt(2)))
    return float(log_ndtr(first)) + math.log(factor) if factor > 0 else -math.inf


def largest_mu(epsilon: float, delta: float) -> float:
    """Return the largest ``mu``, to a millionth of it, whose exact epsilon at ``delta`` is at most ``epsilon``."""
    low, high = 1e-12, 1e12
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if exact_epsilon(middle, delta) <= epsilon else (low, middle)
    return low


def renyi_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon of a ``mu``-GDP mechanism by Renyi accounting: an upper bound, never tight.

    Order ``a`` has divergence ``a mu^2 / 2``, converted by arXiv 2004.00010, proposition 12, at the best order.
    """
    if mu == 0:
        return 0.0
    orders = 1 + np.logspace(-3, 4, 4001)
    spent = orders * mu**2 / 2 + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(spent.min()))


def steps_for_epsilon(
    noise_multiplier: float, epsilon: float, delta: float, spent: Callable[[float, float], float] = exact_epsilon
) -> tuple[int, float]:
    """Return the number of steps on all examples with the epsilon nearest to ``epsilon``, and that epsilon.

    Parameters
    ----------
    noise_multiplier : float
        Noise multiplier of each step.
    epsilon, delta : float
        The guarantee to match.
    spent : callable
        :func:`exact_epsilon` or :func:`renyi_epsilon`.

    Examples
    --------
    >>> steps, epsilon = steps_for_epsilon(4.0, 2.9, 1e-5)
    >>> steps, round(epsilon, 2)
    (8, 2.94)
    """
    high = 1
    while spent(math.sqrt(high) / noise_multiplier, delta) < epsilon:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        below = spent(math.sqrt(middle) / noise_multiplier, delta) < epsilon
        low, high = (middle, high) if below else (low, middle)
    near = {steps: spent(math.sqrt(steps) / noise_multiplier, delta) for steps in (low, high) if steps}
    nearest = min(near, key=lambda steps: abs(near[steps] - epsilon))
    return nearest, near[nearest]


def mu_of(kinds: Sequence[tuple[float, float]], counts: Sequence[int]) -> float:
    """Return ``mu`` of ``counts[k]`` steps of each kind ``(noise_multiplier, sample_rate)``.

    Raises
    ------
    AccountantFailed
        A step sampled its examples: Gaussian differential privacy is exact without sampling only.
    """
    sampled = [rate for (_, rate), count in zip(kinds, counts, strict=True) if count and rate < 1]
    if sampled:
        raise AccountantFailed(f"gdp needs full batches, got sample rate {sampled[0]:g}")
    # In this order no intermediate value overflows or underflows.
    return math.hypot(*(math.sqrt(count) / noise for (noise, _), count in zip(kinds, counts, strict=True)))


def epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    """Return the exact epsilon of each row of ``counts``; see `ppml.accounting.epsilon` for the parameters."""
    return [exact_epsilon(mu_of(kinds, row), delta) for row in counts]
