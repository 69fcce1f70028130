"""The epsilon of a planned training."""

from __future__ import annotations

from numbers import Integral, Real

from ppml.accounting.cross_check import TIGHTEST, stated_epsilon
from ppml.accounting.epsilon import ACCOUNTANTS, NEIGHBOURING
from ppml.accounting.events import MechanismEvent
from ppml.api.privacy_statement import PrivacyStatement
from ppml.config.privacy_limits import MAX_DELTA, MAX_NOISE, MIN_DELTA, MIN_NOISE
from ppml.errors import UserError

MOST_STEPS = 10**9
"""More steps than any training takes; the numbers of the accountants have no room for every integer."""


def account(
    *, sample_rate: float, noise_multiplier: float, steps: int, delta: float = 1e-5, accountant: str = TIGHTEST
) -> PrivacyStatement:
    """Return the privacy statement of DP-SGD: steps of the Poisson-subsampled Gaussian mechanism.

    Parameters
    ----------
    sample_rate : float
        Probability in (0, 1] with which each example enters a step, independently: the expected batch size, divided
        by the number of examples.
    noise_multiplier : float
        Standard deviation of the noise in units of the clipping norm.
    steps : int
        Number of steps of the whole training.
    delta : float
        The probability outside the guarantee.
    accountant : {"tightest", "prv", "pld", "rdp", "gdp"}
        ``tightest``: exact for a sample rate of 1, else the smaller of ``prv`` and ``pld``. ``rdp`` replaces an
        accountant that has no trustworthy epsilon; the statement names the accountant of its epsilon.

    Returns
    -------
    PrivacyStatement
        The statement for one example.

    Raises
    ------
    UserError
        A value is not allowed.

    Examples
    --------
    >>> spent = account(sample_rate=256 / 60_000, noise_multiplier=1.1, steps=2_340, delta=1e-5, accountant="rdp")
    >>> round(spent.epsilon, 2), spent.accountant
    (1.1, 'rdp')
    """
    numbers = {
        "sample_rate": (sample_rate, 0.0, 1.0),
        "noise_multiplier": (noise_multiplier, MIN_NOISE, MAX_NOISE),
        "delta": (delta, MIN_DELTA, MAX_DELTA),
    }
    for key, (value, low, high) in numbers.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not low <= value <= high or not value:
            raise UserError(f"{key}: got {value!r}; allowed: a number above 0 from {low:g} to {high:g}")
    if not isinstance(steps, Integral) or isinstance(steps, bool) or not 1 <= steps <= MOST_STEPS:
        raise UserError(f"steps: got {steps!r:.40}; allowed: a whole number from 1 to {MOST_STEPS:,}")
    if accountant not in (TIGHTEST, *ACCOUNTANTS):
        raise UserError(f"accountant: got {accountant!r}; allowed: {', '.join((TIGHTEST, *ACCOUNTANTS))}")
    event = MechanismEvent(float(sample_rate), float(noise_multiplier), int(steps), max_grad_norm=1.0)
    epsilon, used = stated_epsilon([event], float(delta), accountant)
    return PrivacyStatement(epsilon, float(delta), "example", NEIGHBOURING, used)
