"""A privacy budget: what may be spent on one owner's records, refused before it is exceeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ppml.accounting.cross_check import TIGHTEST, on_all_records, stated
from ppml.accounting.epsilon import epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent, compose


class BudgetExhausted(RuntimeError):
    """A step would spend more than the budget has left; it was not taken."""


class PrivacyBudget:
    """An account with a limit: every step is asked for before it is taken, and refused if it does not fit.

    The steps are composed, not their epsilons added: a budget of 1 is worth many more steps than 1 over the epsilon of
    one. What is spent never exceeds the limit, which was fixed before the training, so that stopping there is itself
    covered by the guarantee (a privacy filter, arXiv 1605.08294; each step's mechanism is fixed in advance).

    Parameters
    ----------
    limit : float
        The largest epsilon that may be spent, above 0.
    delta : float
        In (0, 1).
    accountant : {"tightest", "prv", "rdp", "pld", "gdp"}
        What epsilon is stated by (:func:`ppml.accounting.cross_check.stated`).

    Examples
    --------
    >>> budget = PrivacyBudget(1.0, delta=1e-5, accountant="gdp")
    >>> step = MechanismEvent(sample_rate=1.0, noise_multiplier=20.0, steps=1, max_grad_norm=1.0)
    >>> budget.affordable(step)
    28
    >>> budget.spend(replace(step, steps=28))
    >>> round(budget.spent, 3), budget.affordable(step)
    (0.986, 0)
    >>> budget.spend(step)
    Traceback (most recent call last):
        ...
    ppml.accounting.budget.BudgetExhausted: 1 step would spend epsilon 1.00495, 1 is allowed, 0.98577 is spent
    """

    def __init__(self, limit: float, *, delta: float, accountant: str) -> None:
        self.limit = limit
        self.delta = delta
        self.accountant = accountant
        self.events: tuple[MechanismEvent, ...] = ()
        # How many more steps of the kind that was asked for last fit: most askers come again with the same step.
        self._fits: tuple[MechanismEvent, int] | None = None

    @property
    def spent(self) -> float:
        """Epsilon of everything that was spent, composed."""
        return self._epsilon(self.events)

    def spend(self, event: MechanismEvent) -> None:
        """Record the steps of ``event``; to be called before they are taken.

        Raises
        ------
        BudgetExhausted
            They do not all fit: none is recorded, and none may be taken.
        """
        kind = replace(event, steps=1)
        if self._fits is None or self._fits[0] != kind:
            self._fits = kind, self.affordable(kind)
        fits = self._fits[1]
        if event.steps > fits:
            wanted = self._epsilon(compose([*self.events, event]))
            raise BudgetExhausted(
                f"{event.steps} step{'s' if event.steps > 1 else ''} would spend epsilon {wanted:.6g}, {self.limit:g} "
                f"is allowed, {self.spent:.6g} is spent"
            )
        self.events = compose([*self.events, event])
        self._fits = kind, fits - event.steps

    def affordable(self, event: MechanismEvent, at_most: int = 2**24) -> int:
        """Return how many further steps like those of ``event`` fit into the budget, ``at_most`` if more do.

        Found by bisection on the composed epsilon: after that many steps it is within the limit, after one more it is
        not. One accountant narrows it down; that both hold is asked of the number that is stated.
        """

        def spending(steps: int) -> tuple[MechanismEvent, ...]:
            return compose([*self.events, replace(event, steps=steps)])

        def fits(steps: int) -> bool:
            return steps == 0 or self._epsilon(spending(steps)) <= self.limit

        def seems_to_fit(steps: int) -> bool:
            return self._by_one(spending(steps)) <= self.limit

        found = _most(seems_to_fit, at_most)
        if fits(found) and (found == at_most or not fits(found + 1)):
            return found
        return _most(fits, at_most)

    def _epsilon(self, events: tuple[MechanismEvent, ...]) -> float:
        return stated(events, self.delta, self.accountant)[0]

    def _by_one(self, events: tuple[MechanismEvent, ...]) -> float:
        """Return epsilon by one accountant, which is most often the number that is stated."""
        tightest = "gdp" if on_all_records(events) else "pld"
        try:
            return epsilon(events, self.delta, tightest if self.accountant == TIGHTEST else self.accountant)
        except AccountantFailed:
            return epsilon(events, self.delta, "rdp")


def _most(fits: Callable[[int], bool], at_most: int) -> int:
    """Return the number of steps that fit where one more does not, ``at_most`` if so many do."""
    low, high = 0, 1
    while high <= at_most and fits(high):
        low, high = high, min(2 * high, at_most + 1) if high < at_most else at_most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
