"""Privacy budgets allow the largest number of steps within their limit, by every accountant."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ppml.accounting.budget import BudgetExhausted, PrivacyBudget
from ppml.accounting.cross_check import stated_epsilon
from ppml.accounting.epsilon import epsilon
from ppml.accounting.events import MechanismEvent
from ppml.contract import DataContract
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from ..learning.digits import some, vector

DELTA = 1e-5
STEP = MechanismEvent(sample_rate=0.1, noise_multiplier=2.0, steps=1, max_grad_norm=1.0)
ON_ALL = replace(STEP, sample_rate=1.0, noise_multiplier=15.0)
ACCOUNTANTS = [("tightest", STEP), ("tightest", ON_ALL), ("prv", STEP), ("rdp", STEP), ("pld", STEP), ("gdp", ON_ALL)]


def check_budget_limit(accountant: str, step: MechanismEvent, counted: PrivacyBudget) -> None:
    steps = counted.affordable_steps(step)
    assert stated_epsilon([replace(step, steps=steps)], DELTA, accountant)[0] <= 1.0
    assert stated_epsilon([replace(step, steps=steps + 1)], DELTA, accountant)[0] > 1.0
    counted.spend(replace(step, steps=steps))
    with pytest.raises(BudgetExhausted, match="1 step would spend epsilon 1"):
        counted.spend(step)
    assert sum(event.steps for event in counted.events) == steps
    assert counted.spent <= 1.0


@pytest.mark.parametrize(
    ("accountant", "step"), ACCOUNTANTS, ids=[f"{name} at {step.sample_rate:g}" for name, step in ACCOUNTANTS]
)
def test_budget_allows_the_last_fitting_step_and_refuses_the_next(accountant, step):
    check_budget_limit(accountant, step, PrivacyBudget(1.0, delta=DELTA, accountant=accountant))


class ExtraStepBudget(PrivacyBudget):
    """A faulty budget that allows one step too many."""

    def affordable_steps(self, event, at_most=2**24):
        return super().affordable_steps(event, at_most) + 1


class ForgetfulBudget(PrivacyBudget):
    """A faulty budget without memory of earlier steps."""

    def spend(self, event):
        self.events, self._fits = (), None
        super().spend(event)


@pytest.mark.parametrize("fault", [ExtraStepBudget, ForgetfulBudget])
def test_check_detects_a_faulty_budget(fault):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_budget_limit("rdp", STEP, fault(1.0, delta=DELTA, accountant="rdp"))


def test_single_steps_and_joint_steps_have_the_same_limit():
    counted, taken = PrivacyBudget(1.0, delta=DELTA, accountant="gdp"), 0
    with pytest.raises(BudgetExhausted):
        while True:
            counted.spend(ON_ALL)
            taken += 1
    assert taken == PrivacyBudget(1.0, delta=DELTA, accountant="gdp").affordable_steps(ON_ALL)


def test_budget_composes_different_mechanisms():
    fresh, used = (PrivacyBudget(1.0, delta=DELTA, accountant="rdp") for _ in range(2))
    used.spend(replace(STEP, noise_multiplier=4.0, steps=50))
    remaining = used.affordable_steps(STEP)
    assert 0 < remaining < fresh.affordable_steps(STEP)
    assert used.spent == stated_epsilon(used.events, DELTA, "rdp")[0]
    together = [*used.events, replace(STEP, steps=remaining)]
    assert epsilon(together, DELTA, "rdp") <= 1.0


def test_refused_steps_do_not_change_the_account():
    counted = PrivacyBudget(1.0, delta=DELTA, accountant="gdp")
    with pytest.raises(BudgetExhausted):
        counted.spend(replace(ON_ALL, steps=10_000))
    assert (counted.events, counted.spent) == ((), 0.0)


def test_search_takes_logarithmic_evaluations(monkeypatch):
    counted, calls = PrivacyBudget(1.0, delta=DELTA, accountant="gdp"), []
    for name in ("_epsilon", "_single_accountant_epsilon"):
        original = getattr(counted, name)
        monkeypatch.setattr(counted, name, lambda events, original=original: calls.append(events) or original(events))
    steps = counted.affordable_steps(replace(ON_ALL, noise_multiplier=1500.0))
    assert steps > 100_000
    assert len(calls) < 2 * steps.bit_length() + 4


# The learner.


def fit(affordable: int | None, epochs: int = 3):
    """Return number of steps, weights and reported epochs of a training of 5 steps per epoch."""
    model = build_model("logistic", DataContract(shape=(1, 28, 28), classes=10), torch.Generator())
    reported: list[int] = []
    learner = DpSgdLearner(Settings(epochs, 20, 0.5), noise_multiplier=1.0, max_grad_norm=0.1)
    events = learner.fit(
        model,
        some(100),
        window=TrainingWindow(),
        rng=Randomness(1),
        after_epoch=lambda epoch, loss: reported.append(epoch),
        affordable_steps=affordable,
    )
    return sum(event.steps for event in events), vector(model), reported


@pytest.mark.parametrize(
    ("affordable", "executed", "epochs"),
    [(1, 1, [1]), (5, 5, [1]), (7, 7, [1, 2]), (15, 15, [1, 2, 3]), (None, 15, [1, 2, 3])],
)
def test_training_stops_before_the_refused_step(affordable, executed, epochs):
    steps, _, reported = fit(affordable)
    assert (steps, reported) == (executed, epochs)


def test_refused_steps_do_not_change_the_model():
    # The learning rate falls over the planned steps, so the first steps are the same with every budget.
    assert not torch.equal(fit(7)[1], fit(8)[1])
    assert torch.equal(fit(15)[1], fit(None)[1])
