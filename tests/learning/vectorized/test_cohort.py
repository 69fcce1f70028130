"""Vectorized training of several owners."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ppml.learning.independent import train_independently
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.result import TrainingResult
from ppml.learning.sequential import SequentialTrainer
from ppml.learning.sgd import SgdLearner
from ppml.learning.vectorized.cohort import VectorizedTrainer
from ppml.learning.vectorized.network import StackedNetwork
from ppml.randomness import Randomness

from ..digits import cnn, digits, some, vector

SETTINGS = Settings(epochs=4, batch_size=16, learning_rate=0.02)
OWNED = [some(60), some(35, start=60), some(90, start=100)]


def trained(cohort, owned=OWNED, every: int = 1) -> TrainingResult:
    return train_independently(
        [cnn() for _ in owned], cohort, owned, digits()[1], Randomness(1), lambda row: None, every
    )


@pytest.fixture(scope="module")
def together() -> TrainingResult:
    return trained(VectorizedTrainer(SETTINGS))


def test_cohort_equals_sequential_training(together):
    one_by_one = trained(SequentialTrainer([SgdLearner(SETTINGS)] * 3, [None] * 3))
    for model, other in zip(together.models, one_by_one.models, strict=True):
        assert torch.allclose(vector(model), vector(other), rtol=0, atol=1e-4)
    rows = [(row.step, row.train_loss, row.loss, row.accuracy) for row in together.history]
    for row, other in zip(rows, one_by_one.history, strict=True):
        assert row == pytest.approx((other.step, other.train_loss, other.loss, other.accuracy), abs=2e-3)
    assert together.events == one_by_one.events == [(), (), ()]


def test_owner_model_is_independent_of_other_owners():
    """Use unequal batches, so that owners start at different times."""
    settings = replace(SETTINGS, batch_size=7)
    together = trained(VectorizedTrainer(settings))
    for place, examples in enumerate(OWNED):
        alone = cnn()
        VectorizedTrainer(settings).fit(
            [alone], [examples], [Randomness(1).party("client", place)], [lambda *told: None]
        )
        assert torch.equal(vector(alone), vector(together.models[place]))


def test_diverged_training_stops(monkeypatch):
    steps, backward = [], StackedNetwork.backward
    monkeypatch.setattr(StackedNetwork, "backward", lambda network: steps.append(1) or backward(network) * float("nan"))
    with pytest.raises(TrainingDiverged):
        trained(VectorizedTrainer(SETTINGS))
    assert len(steps) == 1


def test_history_interval_does_not_change_cohort(together):
    seldom = trained(VectorizedTrainer(SETTINGS), every=3)
    assert seldom.history == [row for row in together.history if row.step in (3, 4)]
    assert all(
        torch.equal(vector(one), vector(other)) for one, other in zip(seldom.models, together.models, strict=True)
    )


def diverging(monkeypatch, step: int) -> TrainingDiverged:
    """Train three owners; the loss of the second is not finite in ``step``, of 3 per epoch."""
    from ppml.learning.vectorized import training as training_module

    take, taken = training_module._ReplicaSchedule.take, [0]

    def spoiled(schedule, rows, labels):
        count = take(schedule, rows, labels)
        if schedule.replica == 1:
            taken[0] += 1
            if taken[0] == step:
                rows[:count] = float("nan")
        return count

    monkeypatch.setattr(training_module._ReplicaSchedule, "take", spoiled)
    with pytest.raises(TrainingDiverged) as raised:
        trained(VectorizedTrainer(SETTINGS))
    return raised.value


@pytest.mark.parametrize(
    ("step", "epoch", "restored"), [(1, 1, 0), (2, 1, 0), (4, 2, 0), (5, 2, 3), (7, 3, 3), (9, 3, 6), (12, 4, 9)]
)
def test_diverged_owner_is_named_and_its_weights_are_restored(step, epoch, restored, monkeypatch):
    weights, model = {0: vector(cnn())}, cnn()

    def keep(epoch, loss):
        weights[3 * epoch] = vector(model).clone()

    VectorizedTrainer(SETTINGS).fit([model], OWNED[1:2], [Randomness(1).party("client", 1)], [keep])
    error = diverging(monkeypatch, step)
    assert str(error) == (
        f"client 1: the loss is not finite in step {step} of 12, epoch {epoch} of 4; "
        f"the model has its weights after step {restored} again"
    )
    assert (error.step, error.restored) == (step, restored)
    assert torch.equal(vector(error.model), weights[restored])


def test_non_finite_final_weights_are_not_evaluated():
    far = Settings(epochs=1, batch_size=64, learning_rate=1e39)
    rows = []
    with pytest.raises(TrainingDiverged, match=r"^a weight is not finite after step 1, epoch 1 of 1; .* step 0"):
        train_independently([cnn()], VectorizedTrainer(far), OWNED[:1], digits()[1], Randomness(1), rows.append)
    assert rows == []
