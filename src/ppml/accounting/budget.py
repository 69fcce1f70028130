"""A privacy budget: the limit of the epsilon of one owner's examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ppml.accounting.cross_check import TIGHTEST, is_full_batch, stated_epsilon
from ppml.accounting.epsilon import epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent, compose


class BudgetExhausted(RuntimeError):
    """A step would exceed the budget; it is not executed."""


class PrivacyBudget:
    """An accountant with a limit: each step is requested before its execution, and refused if it exceeds the limit.

    The budget composes the steps and does not add their epsilons: a budget of 1 allows many more steps than 1 over the
    epsilon of one step. The limit is fixed before the training, so the guarantee also covers the decision to stop (a
    privacy filter, arXiv 1605.08294; each step's mechanism is fixed in advance).

    Parameters
    ----------
    limit : float
        The largest allowed epsilon, above 0.
    delta : float
        In (0, 1).
    accountant : {"tightest", "prv", "rdp", "pld", "gdp"}
        The accountant of the stated epsilon (:func:`ppml.accounting.cross_check.stated_epsilon`).

    Examples
    --------
    >>> budget = PrivacyBudget(1.0, delta=1e-5, accountant="gdp")
    >>> step = MechanismEvent(sample_rate=1.0, noise_multiplier=20.0, steps=1, max_grad_norm=1.0)
    >>> budget.affordable_steps(step)
    28
    >>> budget.spend(replace(step, steps=28))
    >>> round(budget.spent, 3), budget.affordable_steps(step)
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
        # The latest kind of step, and the number of such steps that still fit: most callers repeat the same step.
        self._fits: tuple[MechanismEvent, int] | None = None

    @property
    def spent(self) -> float:
        """Epsilon of all recorded steps, composed."""
        return self._epsilon(self.events)

    def spend(self, event: MechanismEvent) -> None:
        """Record the steps of ``event`` before their execution.

        Raises
        ------
        BudgetExhausted
            Not all steps fit: the budget records none, and the caller must execute none.
        """
        kind = replace(event, steps=1)
        if self._fits is None or self._fits[0] != kind:
            self._fits = kind, self.affordable_steps(kind)
        fits = self._fits[1]
        if event.steps > fits:
            wanted = self._epsilon(compose([*self.events, event]))
            raise BudgetExhausted(
                f"{event.steps} step{'s' if event.steps > 1 else ''} would spend epsilon {wanted:.6g}, {self.limit:g} "
                f"is allowed, {self.spent:.6g} is spent"
            )
        self.events = compose([*self.events, event])
        self._fits = kind, fits - event.steps

    def affordable_steps(self, event: MechanismEvent, at_most: int = 2**24) -> int:
        """Return the number of further steps of ``event`` that fit into the budget, at most ``at_most``.

        The search bisects on the composed epsilon of one accountant. The stated epsilon then confirms that this number
        of steps is within the limit and one more step is not.
        """

        def spending(steps: int) -> tuple[MechanismEvent, ...]:
            return compose([*self.events, replace(event, steps=steps)])

        def fits(steps: int) -> bool:
            return steps == 0 or self._epsilon(spending(steps)) <= self.limit

        def fits_one_accountant(steps: int) -> bool:
            return self._single_accountant_epsilon(spending(steps)) <= self.limit

        found = _max_fitting(fits_one_accountant, at_most)
        if fits(found) and (found == at_most or not fits(found + 1)):
            return found
        return _max_fitting(fits, at_most)

    def _epsilon(self, events: tuple[MechanismEvent, ...]) -> float:
        return stated_epsilon(events, self.delta, self.accountant)[0]

    def _single_accountant_epsilon(self, events: tuple[MechanismEvent, ...]) -> float:
        """Return epsilon by the accountant that most often states it."""
        tightest = "gdp" if is_full_batch(events) else "pld"
        try:
            return epsilon(events, self.delta, tightest if self.accountant == TIGHTEST else self.accountant)
        except AccountantFailed:
            return epsilon(events, self.delta, "rdp")


def _max_fitting(fits: Callable[[int], bool], at_most: int) -> int:
    """Return the largest number of steps that fits, at most ``at_most``."""
    low, high = 0, 1
    while high <= at_most and fits(high):
        low, high = high, min(2 * high, at_most + 1) if high < at_most else at_most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
