"""A privacy budget never allows one step too many, by any accountant, and hardly one too few."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ppml.accounting.budget import BudgetExhausted, PrivacyBudget
from ppml.accounting.cross_check import stated
from ppml.accounting.epsilon import epsilon
from ppml.accounting.events import MechanismEvent
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings
from ppml.learning.training_window import Span
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from ..learning.digits import some, vector

DELTA = 1e-5
STEP = MechanismEvent(sample_rate=0.1, noise_multiplier=2.0, steps=1, max_grad_norm=1.0)
ON_ALL = replace(STEP, sample_rate=1.0, noise_multiplier=15.0)
ACCOUNTANTS = [("tightest", STEP), ("tightest", ON_ALL), ("prv", STEP), ("rdp", STEP), ("pld", STEP), ("gdp", ON_ALL)]


def check_the_budget_ends_exactly_at_its_boundary(
    accountant: str, step: MechanismEvent, counted: PrivacyBudget
) -> None:
    steps = counted.affordable(step)
    assert stated([replace(step, steps=steps)], DELTA, accountant)[0] <= 1.0
    assert stated([replace(step, steps=steps + 1)], DELTA, accountant)[0] > 1.0
    counted.spend(replace(step, steps=steps))
    with pytest.raises(BudgetExhausted, match="1 step would spend epsilon 1"):
        counted.spend(step)
    assert sum(event.steps for event in counted.events) == steps
    assert counted.spent <= 1.0


@pytest.mark.parametrize(
    ("accountant", "step"), ACCOUNTANTS, ids=[f"{name} at {step.sample_rate:g}" for name, step in ACCOUNTANTS]
)
def test_the_last_step_that_fits_is_taken_and_the_next_refused(accountant, step):
    check_the_budget_ends_exactly_at_its_boundary(
        accountant, step, PrivacyBudget(1.0, delta=DELTA, accountant=accountant)
    )


class OneStepTooMany(PrivacyBudget):
    """Allows a step more than fits."""

    def affordable(self, event, at_most=2**24):
        return super().affordable(event, at_most) + 1


class EachStepAlone(PrivacyBudget):
    """Forgets what was spent before, as an accountant that starts anew does."""

    def spend(self, event):
        self.events, self._fits = (), None
        super().spend(event)


@pytest.mark.parametrize("fault", [OneStepTooMany, EachStepAlone])
def test_a_budget_that_allows_too_much_is_caught(fault):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_the_budget_ends_exactly_at_its_boundary("rdp", STEP, fault(1.0, delta=DELTA, accountant="rdp"))


def test_spending_step_by_step_allows_as_many_as_at_once():
    counted, taken = PrivacyBudget(1.0, delta=DELTA, accountant="gdp"), 0
    with pytest.raises(BudgetExhausted):
        while True:
            counted.spend(ON_ALL)
            taken += 1
    assert taken == PrivacyBudget(1.0, delta=DELTA, accountant="gdp").affordable(ON_ALL)


def test_what_was_spent_on_other_mechanisms_counts():
    fresh, used = (PrivacyBudget(1.0, delta=DELTA, accountant="rdp") for _ in range(2))
    used.spend(replace(STEP, noise_multiplier=4.0, steps=50))
    left = used.affordable(STEP)
    assert 0 < left < fresh.affordable(STEP)
    assert used.spent == stated(used.events, DELTA, "rdp")[0]
    together = [*used.events, replace(STEP, steps=left)]
    assert epsilon(together, DELTA, "rdp") <= 1.0


def test_steps_that_do_not_all_fit_leave_the_account_as_it_was():
    counted = PrivacyBudget(1.0, delta=DELTA, accountant="gdp")
    with pytest.raises(BudgetExhausted):
        counted.spend(replace(ON_ALL, steps=10_000))
    assert (counted.events, counted.spent) == ((), 0.0)


def test_the_number_of_evaluations_is_logarithmic(monkeypatch):
    counted, calls = PrivacyBudget(1.0, delta=DELTA, accountant="gdp"), []
    for name in ("_epsilon", "_by_one"):
        true = getattr(counted, name)
        monkeypatch.setattr(counted, name, lambda events, true=true: calls.append(events) or true(events))
    steps = counted.affordable(replace(ON_ALL, noise_multiplier=1500.0))
    assert steps > 100_000
    assert len(calls) < 2 * steps.bit_length() + 4


# The learner.


def fit(affordable: int | None, epochs: int = 3):
    """Return events, weights and the epochs that were told, of a training of 5 steps an epoch."""
    model = build_model("logistic", 10, torch.Generator())
    told: list[int] = []
    learner = DpSgdLearner(Settings(epochs, 20, 0.5), noise_multiplier=1.0, max_grad_norm=0.1)
    events = learner.fit(
        model,
        some(100),
        span=Span(),
        rng=Randomness(1),
        after_epoch=lambda epoch, loss: told.append(epoch),
        most_steps=affordable,
    )
    return sum(event.steps for event in events), vector(model), told


@pytest.mark.parametrize(
    ("affordable", "executed", "epochs"),
    [(1, 1, [1]), (5, 5, [1]), (7, 7, [1, 2]), (15, 15, [1, 2, 3]), (None, 15, [1, 2, 3])],
)
def test_training_stops_before_the_step_that_is_refused_and_tells_the_epoch_so_far(affordable, executed, epochs):
    steps, _, told = fit(affordable)
    assert (steps, told) == (executed, epochs)


def test_what_a_refused_step_would_have_done_is_not_in_the_model():
    # The learning rate falls over the whole plan, cut short or not, so that the first steps are the same.
    assert not torch.equal(fit(7)[1], fit(8)[1])
    assert torch.equal(fit(15)[1], fit(None)[1])


# The documentation.


def test_the_worked_example_says_what_it_prints(root: Path):
    text = (root / "docs" / "budget.md").read_text(encoding="utf-8")
    code, printed = (part.split("```", 1)[0] for part in (text.split("```python\n")[1], text.split("```text\n")[1]))
    lines: list[str] = []
    exec(code, {"print": lambda *values: lines.append(" ".join(map(str, values)))})
    assert "\n".join(lines) + "\n" == printed
