"""Epsilon from the mechanism that was executed, and the noise that a target epsilon needs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ppml.accounting.events import MechanismEvent

NEIGHBOURING = "add_or_remove_one"
"""Neighbouring data sets differ in one record, added or removed; the number of records is treated as public."""

PRV_ERROR = 0.01
"""Width of the interval that the PRV accountant brackets epsilon with; its upper end is reported."""


def epsilon(events: Sequence[MechanismEvent], delta: float, accountant: str) -> float:
    """Return the epsilon that ``events``, composed, spend at ``delta``.

    Parameters
    ----------
    events : sequence of MechanismEvent
        Everything that ran on one owner's records; records of different owners are disjoint.
    delta : float
        In (0, 1).
    accountant : {"prv", "rdp"}
        Numerical composition of privacy loss random variables (arXiv 2106.02848), whose upper bound is returned, or
        Renyi differential privacy (arXiv 1702.07476).

    Returns
    -------
    float
        0 if nothing ran; infinity if a step had no noise.

    Raises
    ------
    ValueError
        A sampler other than Poisson: no amplification may be claimed for it here.
    """
    other = {event.sampler for event in events} - {"poisson"}
    if other:
        raise ValueError(f"accounting by Poisson sampling claimed for sampler {sorted(other)[0]!r}; allowed: 'poisson'")
    history = [(event.noise_multiplier, event.sample_rate, event.steps) for event in events if event.steps]
    if not history:
        return 0.0
    if any(noise == 0 for noise, _, _ in history):
        return float("inf")
    return _by_opacus(history, delta, accountant)


def calibrate(*, target: float, delta: float, sample_rate: float, steps: int, accountant: str) -> float:
    """Return the smallest noise multiplier, to 0.005 of epsilon, that spends at most ``target``.

    The search is Opacus' bisection on the same accountant that will state epsilon.
    """
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        noise: float = get_noise_multiplier(
            target_epsilon=target,
            target_delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            accountant=accountant,
            epsilon_tolerance=0.005,
        )
    return noise


def _by_opacus(history: list[tuple[float, float, int]], delta: float, accountant: str) -> float:
    from opacus.accountants import create_accountant

    counter = create_accountant(mechanism=accountant)
    counter.history = history
    with warnings.catch_warnings():
        # Opacus warns when the best Renyi order is the last one tried; the bound holds all the same.
        warnings.simplefilter("ignore")
        if accountant == "prv":
            return float(counter.get_epsilon(delta, eps_error=PRV_ERROR))
        return float(counter.get_epsilon(delta))
