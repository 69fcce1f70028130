"""A lower bound of the epsilon of a mechanism; accountants give upper bounds."""

from __future__ import annotations

import math

from ppml.accounting.gdp import TOLERANCE, exact_epsilon

INTERVAL = 1e-3
"""Step of the grid of losses."""


def epsilon_floor(*, noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return a lower bound of the epsilon of a subsampled Gaussian mechanism, tight up to rounding.

    Parameters
    ----------
    noise_multiplier : float
        Above 0.
    sample_rate : float
        In (0, 1].
    steps : int
        Number of steps.
    delta : float
        In (0, 1).

    Returns
    -------
    float
        By the closed form for full batches (arXiv 1905.02383), otherwise by privacy loss distributions with losses
        rounded down (arXiv 2207.04380).

    Examples
    --------
    >>> round(epsilon_floor(noise_multiplier=1.0, sample_rate=1.0, steps=1, delta=1e-5), 3)
    4.377
    """
    if sample_rate >= 1.0:
        return max(0.0, exact_epsilon(math.sqrt(steps) / noise_multiplier, delta) - 2 * TOLERANCE)
    from dp_accounting.pld import privacy_loss_distribution

    step = privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=INTERVAL,
        pessimistic_estimate=False,
        use_connect_dots=False,
    )
    return max(0.0, float(step.self_compose(steps).get_epsilon_for_delta(delta)))
