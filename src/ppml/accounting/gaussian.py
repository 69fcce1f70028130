"""The Gaussian mechanism on all records, where epsilon has a closed form: no sampling, nothing numerical to trust."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize
from scipy.stats import norm

from ppml.accounting.failure import AccountantFailed

TOLERANCE = 1e-9
"""Of the root that epsilon is; it is added, so that what is stated is never below."""


def exact_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon that a ``mu``-GDP mechanism satisfies at ``delta``.

    The root of ``delta = Phi(-eps/mu + mu/2) - exp(eps) Phi(-eps/mu - mu/2)`` (arXiv 1905.02383, corollary 1), exact
    for the composition of Gaussian mechanisms on all records, with ``mu = sqrt(sum steps / noise_multiplier^2)``.

    Parameters
    ----------
    mu : float
        At least 0.
    delta : float
        In (0, 1).

    Examples
    --------
    >>> round(exact_epsilon(1.0, 1e-5), 4)
    4.3772
    """
    if mu == 0 or _delta(0.0, mu) <= delta:
        return 0.0
    # P(loss > eps) <= delta there, for the loss is normal with mean mu^2 / 2 and deviation mu.
    above = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    root = optimize.brentq(lambda epsilon: _delta(epsilon, mu) - delta, 0.0, above, xtol=TOLERANCE)
    return float(root) + TOLERANCE


def _delta(epsilon: float, mu: float) -> float:
    # The second term as one exponential: its factors overflow and underflow.
    second = math.exp(min(0.0, epsilon + norm.logcdf(-epsilon / mu - mu / 2)))
    return float(norm.cdf(-epsilon / mu + mu / 2) - second)


def renyi_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon that Renyi accounting finds for a ``mu``-GDP mechanism: an upper bound, never tight.

    Order ``a`` costs ``a mu^2 / 2``, converted by arXiv 2004.00010, proposition 12, at the best order.
    """
    if mu == 0:
        return 0.0
    orders = 1 + np.logspace(-3, 4, 4001)
    spent = orders * mu**2 / 2 + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(spent.min()))


def compositions(
    noise_multiplier: float, epsilon: float, delta: float, spent: Callable[[float, float], float] = exact_epsilon
) -> tuple[int, float]:
    """Return how many steps on all records come nearest to ``epsilon``, and what that many spend.

    Parameters
    ----------
    noise_multiplier : float
        Of each step.
    epsilon, delta : float
        The guarantee to match.
    spent : callable
        :func:`exact_epsilon` or :func:`renyi_epsilon`.

    Examples
    --------
    >>> steps, epsilon = compositions(4.0, 2.9, 1e-5)
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
        A step sampled its records: Gaussian differential privacy is exact without sampling only.
    """
    sampled = [rate for (_, rate), count in zip(kinds, counts, strict=True) if count and rate < 1]
    if sampled:
        raise AccountantFailed(f"gdp is exact for steps on all records only, got sample rate {sampled[0]:g}")
    return math.sqrt(sum(count / noise**2 for (noise, _), count in zip(kinds, counts, strict=True)))


def epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    """Return the exact epsilon of each row of ``counts``, as `ppml.accounting.epsilon` asks for it."""
    return [exact_epsilon(mu_of(kinds, row), delta) for row in counts]
