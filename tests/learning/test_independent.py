from __future__ import annotations

import math

import pytest
import torch

from ppml.learning import independent
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.evaluation import evaluate
from ppml.learning.independent import train_independently
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.learning.sequential import SequentialTrainer
from ppml.learning.sgd import SgdLearner
from ppml.randomness import Randomness

from .digits import cnn, digits, some, vector

TWO_EPOCHS = Settings(epochs=2, batch_size=16, learning_rate=0.05)


def private() -> DpSgdLearner:
    return DpSgdLearner(TWO_EPOCHS, noise_multiplier=1.0, max_grad_norm=0.1)


def alone(learners, owned, affordable_steps=None, every=1) -> tuple[TrainingResult, list[HistoryRow]]:
    return alone_in(SequentialTrainer(learners, affordable_steps or [None] * len(owned)), owned, every)


def alone_in(cohort, owned, every=1) -> tuple[TrainingResult, list[HistoryRow]]:
    told: list[HistoryRow] = []
    return train_independently(
        [cnn() for _ in owned], cohort, owned, digits()[1], Randomness(1), told.append, every
    ), told


def test_single_owner_reports_every_epoch():
    outcome, told = alone([SgdLearner(TWO_EPOCHS)], [some(60)])
    assert told == outcome.history
    assert [row.step for row in told] == [1, 2]
    assert (told[-1].loss, told[-1].accuracy) == evaluate(outcome.models[0], digits()[1])
    assert told[0].train_loss > told[1].train_loss > 0


def test_several_owners_report_mean_over_models():
    outcome, told = alone([SgdLearner(TWO_EPOCHS)] * 2, [some(60), some(60, start=60)])
    assert told == outcome.history
    scores = [evaluate(model, digits()[1]) for model in outcome.models]
    assert told[-1].loss == pytest.approx(sum(loss for loss, _ in scores) / 2)
    assert told[-1].accuracy == pytest.approx(sum(accuracy for _, accuracy in scores) / 2)


def test_owner_model_is_independent_of_other_owners():
    by_itself, _ = alone([SgdLearner(TWO_EPOCHS)], [some(60)])
    with_another, _ = alone([SgdLearner(TWO_EPOCHS)] * 2, [some(60), some(90, start=60)])
    assert torch.equal(vector(by_itself.models[0]), vector(with_another.models[0]))


def test_owners_with_equal_examples_have_different_draws():
    outcome, _ = alone([private()] * 2, [some(60)] * 2)
    assert not torch.equal(vector(outcome.models[0]), vector(outcome.models[1]))


@pytest.mark.parametrize("owners", [1, 2])
def test_private_history_has_no_training_loss(owners):
    outcome, told = alone([private()] * owners, [some(60, start=60 * owner) for owner in range(owners)])
    assert [row.train_loss for row in told] == [None, None]
    assert [[event.steps for event in own] for own in outcome.events] == [[8]] * owners


def test_owner_stops_at_its_step_limit():
    owned = [some(60, start=60 * owner) for owner in range(3)]
    outcome, _ = alone([private()] * 3, owned, [6, None, 8])
    assert [[event.steps for event in own] for own in outcome.events] == [[6], [8], [8]]
    unlimited, _ = alone([private()] * 3, owned)
    same = [
        torch.equal(vector(one), vector(other)) for one, other in zip(outcome.models, unlimited.models, strict=True)
    ]
    assert same == [False, True, True]


@pytest.mark.parametrize(
    ("owners", "affordable", "steps"), [(1, None, [2, 4, 5]), (2, None, [2, 4, 5]), (1, 10, [2, 3])]
)
def test_history_interval_does_not_change_models(owners, affordable, steps):
    learners = [SgdLearner(Settings(epochs=5, batch_size=16, learning_rate=0.05))] * owners
    owned = [some(60, start=60 * owner) for owner in range(owners)]
    seldom, told = alone(learners, owned, [affordable] * owners, every=2)
    always, _ = alone(learners, owned, [affordable] * owners)
    assert told == seldom.history and [row.step for row in told] == steps
    assert told == [row for row in always.history if row.step in steps]
    assert torch.equal(vector(seldom.models[-1]), vector(always.models[-1]))


def test_independent_training_sends_no_bytes():
    outcome, _ = alone([SgdLearner(TWO_EPOCHS)], [some(60)])
    assert (outcome.bytes_up, outcome.bytes_down) == (0, 0)


@pytest.mark.parametrize("make", [private, lambda: SgdLearner(TWO_EPOCHS)], ids=["private", "public"])
@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_non_finite_public_loss_is_divergence(make, loss, monkeypatch):
    monkeypatch.setattr(independent, "evaluate", lambda model, test: (loss, 0.1))
    with pytest.raises(TrainingDiverged, match=r"epoch 1$") as raised:
        alone([make()], [some(60)])
    assert sum(event.steps for event in raised.value.events) == (4 if make is private else 0)
