"""The epsilon of the same events by every accountant, and the choice of the stated epsilon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppml.accounting import pld, prv
from ppml.accounting.epsilon import ACCOUNTANTS, epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.errors import UserError

TIGHTEST = "tightest"
"""The least upper bound: exact for full batches, else the lesser of PRV and PLD, which must agree."""

MAX_DIFFERENCE, MAX_RELATIVE_DIFFERENCE = 0.02, 0.03
"""Largest difference of PRV and PLD, absolute or as a fraction of the larger; the larger limit counts.

Each is at most 0.02 above epsilon."""

ERRORS = {"prv": 2 * prv.ERROR, "pld": pld.ERROR}
"""Largest error of each accountant that composes numerically."""

ROUNDING = 1e-6
"""Largest relative difference of two closed forms by rounding."""


class AccountantsDisagree(UserError):
    """Two closed forms contradict each other, so no epsilon is trustworthy."""


def epsilons_by_accountant(events: Sequence[MechanismEvent], delta: float) -> dict[str, float | None]:
    """Return the epsilon of ``events`` by each accountant; None if an accountant has no epsilon.

    ``gdp`` has an epsilon for full batches only; ``prv`` and ``pld`` may fail; ``rdp`` never fails. An epsilon by
    ``prv`` or ``pld`` counts as None if it is below the exact epsilon, or above ``rdp``, by more than its error.
    """
    found: dict[str, float | None] = {}
    for name in ACCOUNTANTS:
        try:
            found[name] = epsilon(events, delta, name)
        except AccountantFailed:
            found[name] = None
    for name, error in ERRORS.items():
        if (value := found[name]) is not None and _contradicts(value, error, found):
            found[name] = None
    return found


def stated_epsilon(events: Sequence[MechanismEvent], delta: float, accountant: str) -> tuple[float, str]:
    """Return the stated epsilon of ``events``, and the name of its accountant.

    Parameters
    ----------
    events : sequence of MechanismEvent
        As in `ppml.accounting.epsilon.epsilon`.
    delta : float
        In (0, 1).
    accountant : {"tightest", "prv", "rdp", "pld", "gdp"}
        The configured accountant. ``rdp`` replaces it if its epsilon is missing or not trustworthy.

    Raises
    ------
    AccountantsDisagree
        Closed forms contradict each other.
    """
    if accountant == TIGHTEST and is_full_batch(events):
        accountant = "gdp"
    if accountant in ("gdp", "rdp"):
        try:
            return epsilon(events, delta, accountant), accountant
        except AccountantFailed:
            return epsilon(events, delta, "rdp"), "rdp"
    return select_epsilon(epsilons_by_accountant(events, delta), accountant)


def select_epsilon(found: Mapping[str, float | None], accountant: str) -> tuple[float, str]:
    """Select the stated epsilon from the epsilons by accountant, and return it with the name of its accountant.

    PRV and PLD are trusted only if both have an epsilon and they differ by at most `MAX_DIFFERENCE` or
    `MAX_RELATIVE_DIFFERENCE`. Otherwise RDP states epsilon.

    Parameters
    ----------
    found : mapping
        The result of :func:`epsilons_by_accountant`.
    accountant : {"tightest", "prv", "rdp", "pld", "gdp"}
        The configured accountant.

    Raises
    ------
    AccountantsDisagree
        RDP is below the exact epsilon: both are closed forms, so at least one is wrong.
    """
    by_rdp, exact = found["rdp"], found["gdp"]
    if by_rdp is None:
        raise AccountantsDisagree("privacy.accountant: RDP bounds every mechanism, but has no epsilon for this one")
    if exact is not None and by_rdp < exact * (1 - ROUNDING) - ROUNDING:
        raise AccountantsDisagree(
            f"privacy.accountant: epsilon {by_rdp:.6g} by RDP is below the exact {exact:.6g} by GDP, so none is stated"
        )
    names = ("pld", "prv", "gdp", "rdp") if _trusted(found) else ("gdp", "rdp")
    usable = {name: value for name in names if (value := found[name]) is not None}
    if accountant != TIGHTEST:
        name = accountant if accountant in usable else "rdp"
    elif exact is not None:
        # No valid bound is below the exact epsilon, except by rounding.
        name = "gdp"
    else:
        name = min(usable, key=lambda candidate: usable[candidate])
    return usable[name], name


def _contradicts(value: float, error: float, found: Mapping[str, float | None]) -> bool:
    """Return whether an epsilon is below the exact one, or above RDP, by more than ``error``."""
    exact, by_rdp = found["gdp"], found["rdp"]
    return (exact is not None and value < exact - error) or (by_rdp is not None and value > by_rdp + error)


def is_full_batch(events: Sequence[MechanismEvent]) -> bool:
    """Return whether every step uses all examples, so that Gaussian differential privacy gives the exact epsilon."""
    return all(event.sample_rate == 1 for event in events if event.steps)


def _trusted(found: Mapping[str, float | None]) -> bool:
    """Return whether PRV and PLD both have an epsilon, and agree."""
    by_prv, by_pld = found["prv"], found["pld"]
    if by_prv is None or by_pld is None:
        return False
    return by_prv == by_pld or abs(by_prv - by_pld) <= max(
        MAX_DIFFERENCE, MAX_RELATIVE_DIFFERENCE * max(by_prv, by_pld)
    )
