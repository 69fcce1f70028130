"""A privacy budget: what may be spent on one owner's records, refused before it is exceeded."""

from __future__ import annotations

from dataclasses import replace

from ppml.accounting.agreement import with_fallback
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
    accountant : {"prv", "rdp", "pld", "gdp"}
        What epsilon is computed by; where that fails, by ``rdp``.

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
        not.
        """

        def fits(steps: int) -> bool:
            return self._epsilon(compose([*self.events, replace(event, steps=steps)])) <= self.limit

        low, high = 0, 1
        while high <= at_most and fits(high):
            low, high = high, min(2 * high, at_most + 1) if high < at_most else at_most + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def _epsilon(self, events: tuple[MechanismEvent, ...]) -> float:
        return with_fallback(events, self.delta, self.accountant)[0]
