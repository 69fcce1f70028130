"""Every accountant's epsilon of the same events, and whether they can all be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppml.accounting import pld, prv
from ppml.accounting.epsilon import ACCOUNTANTS, epsilon
from ppml.accounting.events import MechanismEvent
from ppml.accounting.failure import AccountantFailed
from ppml.errors import UserError

AGREEMENT = 0.05
"""How far apart two upper bounds of the same epsilon may be, which each state an error of about a fifth of it."""


class AccountantsDisagree(UserError):
    """Two accountants contradict each other: at least one of the two numbers is wrong, and nobody knows which."""


def by_every_accountant(events: Sequence[MechanismEvent], delta: float) -> dict[str, float | None]:
    """Return the epsilon of ``events`` by each accountant; None by one that has none.

    ``gdp`` has one where every step was on all records; ``prv`` and ``pld`` may fail, ``rdp`` never does.
    """
    found: dict[str, float | None] = {}
    for name in ACCOUNTANTS:
        try:
            found[name] = epsilon(events, delta, name)
        except AccountantFailed:
            found[name] = None
    return found


def with_fallback(events: Sequence[MechanismEvent], delta: float, accountant: str) -> tuple[float, str]:
    """Return the epsilon of ``events`` and who says so: ``accountant``, or ``rdp`` where that fails."""
    try:
        return epsilon(events, delta, accountant), accountant
    except AccountantFailed:
        return epsilon(events, delta, "rdp"), "rdp"


def check_agreement(epsilons: Mapping[str, float | None], accountant: str) -> None:
    """Raise an error if the accountants cannot all be right and the one that is stated may be wrong.

    Parameters
    ----------
    epsilons : mapping
        What :func:`by_every_accountant` returned.
    accountant : str
        The one whose number is stated. ``rdp`` and ``gdp`` do not rest on numerical composition: they stand.

    Raises
    ------
    AccountantsDisagree
        PRV and PLD are more than `AGREEMENT` apart, or one is below the exact epsilon by more than its stated error.
    """
    if accountant not in ("prv", "pld"):
        return
    other = f"set privacy.accountant: rdp, which composes in closed form, for this arm (it is {accountant})"
    by_prv, by_pld, exact = (epsilons[name] for name in ("prv", "pld", "gdp"))
    if by_prv is not None and by_pld is not None and abs(by_prv - by_pld) > AGREEMENT:
        raise AccountantsDisagree(
            f"privacy.accountant: PRV says epsilon {by_prv:.4f} and PLD says {by_pld:.4f}: more than {AGREEMENT} "
            f"apart, so that neither can be trusted; {other}"
        )
    for name, value, error in (("PRV", by_prv, prv.ERROR), ("PLD", by_pld, pld.ERROR)):
        if value is not None and exact is not None and value < exact - error:
            raise AccountantsDisagree(
                f"privacy.accountant: {name} says epsilon {value:.4f}, below the exact {exact:.4f} (GDP) by more than "
                f"its error of {error}, so that it cannot be trusted; {other}"
            )
