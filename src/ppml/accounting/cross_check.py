"""Every accountant's epsilon of the same events, and which of them is stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppml.accounting import pld, prv
from ppml.accounting.epsilon import ACCOUNTANTS, epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.errors import UserError

TIGHTEST = "tightest"
"""The least upper bound: exact where every step is on all records, else that of PRV or PLD, which must agree."""

APART, SHARE_APART = 0.02, 0.03
"""How far apart PRV and PLD may be: each is at most 0.02 above epsilon, or 3 % of the larger where that is more."""

ERRORS = {"prv": 2 * prv.ERROR, "pld": pld.ERROR}
"""How far above epsilon an accountant that composes numerically may be."""

ROUNDING = 1e-6
"""How far, relative to a number, two closed forms may contradict each other by rounding."""


class AccountantsDisagree(UserError):
    """Two bounds that need no numerical composition contradict each other, so that no number can be trusted."""


def by_every_accountant(events: Sequence[MechanismEvent], delta: float) -> dict[str, float | None]:
    """Return the epsilon of ``events`` by each accountant; None by one that has none.

    ``gdp`` has one where every step was on all records; ``prv`` and ``pld`` may fail, ``rdp`` never does. A number by
    ``prv`` or ``pld`` that is below the exact epsilon, or above ``rdp``, by more than its error is none.
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


def stated(events: Sequence[MechanismEvent], delta: float, accountant: str) -> tuple[float, str]:
    """Return the epsilon that is stated for ``events``, and the accountant that states it.

    Parameters
    ----------
    events : sequence of MechanismEvent
        As in `ppml.accounting.epsilon.epsilon`.
    delta : float
        In (0, 1).
    accountant : {"tightest", "prv", "rdp", "pld", "gdp"}
        The configured accountant. ``rdp`` states the number where it has none, or a number that is not trusted.

    Raises
    ------
    AccountantsDisagree
        Closed forms contradict each other.
    """
    if accountant == TIGHTEST and on_all_records(events):
        accountant = "gdp"
    if accountant in ("gdp", "rdp"):
        try:
            return epsilon(events, delta, accountant), accountant
        except AccountantFailed:
            return epsilon(events, delta, "rdp"), "rdp"
    return choose(by_every_accountant(events, delta), accountant)


def choose(found: Mapping[str, float | None], accountant: str) -> tuple[float, str]:
    """Return the number that is stated, of those by every accountant, and the name of its accountant.

    A number by PRV or PLD is trusted only where both have one, and they differ by at most `APART` or `SHARE_APART`.
    Else RDP states the number.

    Parameters
    ----------
    found : mapping
        What :func:`by_every_accountant` returned.
    accountant : {"tightest", "prv", "rdp", "pld", "gdp"}
        The configured accountant.

    Raises
    ------
    AccountantsDisagree
        RDP is below the exact epsilon: both are closed forms, and at least one is wrong.
    """
    by_rdp, exact = found["rdp"], found["gdp"]
    if by_rdp is None:
        raise AccountantsDisagree("privacy.accountant: RDP, which bounds every mechanism, has no number for this one")
    if exact is not None and by_rdp < exact * (1 - ROUNDING) - ROUNDING:
        raise AccountantsDisagree(
            f"privacy.accountant: RDP says epsilon {by_rdp:.6g}, below the exact {exact:.6g} (GDP): no number is stated"
        )
    names = ("pld", "prv", "gdp", "rdp") if _trusted(found) else ("gdp", "rdp")
    usable = {name: value for name in names if (value := found[name]) is not None}
    if accountant != TIGHTEST:
        name = accountant if accountant in usable else "rdp"
    elif exact is not None:
        # No valid bound is below it, except by its rounding.
        name = "gdp"
    else:
        name = min(usable, key=lambda candidate: usable[candidate])
    return usable[name], name


def _contradicts(value: float, error: float, found: Mapping[str, float | None]) -> bool:
    """Return whether a number is below the exact epsilon, or above RDP, by more than ``error``."""
    exact, by_rdp = found["gdp"], found["rdp"]
    return (exact is not None and value < exact - error) or (by_rdp is not None and value > by_rdp + error)


def on_all_records(events: Sequence[MechanismEvent]) -> bool:
    """Return whether no step sampled its records, so that epsilon is exact by Gaussian differential privacy."""
    return all(event.sample_rate == 1 for event in events if event.steps)


def _trusted(found: Mapping[str, float | None]) -> bool:
    """Return whether PRV and PLD both have a number, and agree."""
    by_prv, by_pld = found["prv"], found["pld"]
    if by_prv is None or by_pld is None:
        return False
    return by_prv == by_pld or abs(by_prv - by_pld) <= max(APART, SHARE_APART * max(by_prv, by_pld))
