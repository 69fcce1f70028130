from __future__ import annotations

import pytest
import torch

from ppml.learning.evaluation import evaluate
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness

from .digits import cnn, digits, some, vector

QUICK = Settings(epochs=1, batch_size=32, learning_rate=0.05)


def trained(
    settings: Settings = QUICK, *, examples=None, seed: int = 1, after_epoch=lambda epoch, loss: None, **others
):
    model, examples = cnn(), examples or some(150)
    SgdLearner(settings).fit(
        model, examples, window=TrainingWindow(), rng=Randomness(seed), after_epoch=after_epoch, **others
    )
    return model


def test_training_generalises_to_test_digits():
    train, test = digits()
    _, accuracy = evaluate(trained(Settings(4, 32, 0.06), examples=train), test)
    assert accuracy > 0.8, "chance is 0.1"


def test_training_is_independent_of_global_seed():
    torch.manual_seed(1)
    first = vector(trained(Settings(2, 32, 0.05, shift=1)))
    torch.manual_seed(2)
    assert torch.equal(first, vector(trained(Settings(2, 32, 0.05, shift=1))))


def test_seeds_give_different_weights():
    assert not torch.equal(vector(trained(seed=1)), vector(trained(seed=2)))


def test_step_limit_ends_training_within_epoch():
    told = {}
    stopped = [vector(trained(Settings(3, 50, 0.05), affordable_steps=most)) for most in (4, 5, 9, None)]
    trained(Settings(3, 50, 0.05), affordable_steps=4, after_epoch=told.__setitem__)
    assert list(told) == [1, 2]
    assert not torch.equal(stopped[0], stopped[1])
    assert torch.equal(stopped[2], stopped[3])


def test_sgd_returns_no_mechanism():
    assert SgdLearner(QUICK).fit(cnn(), some(40), window=TrainingWindow(), rng=Randomness(1)) == ()


@pytest.mark.parametrize("examples", [64, 70], ids=["equal batches", "a last batch of 6"])
def test_callback_gets_mean_loss(examples):
    still = Settings(epochs=2, batch_size=32, learning_rate=1e-12)
    told = {}
    model = trained(still, examples=some(examples), after_epoch=told.__setitem__)
    loss, _ = evaluate(model, some(examples))
    assert told == pytest.approx({1: loss, 2: loss}, rel=1e-5)


def test_training_restores_memory_format():
    assert all(parameter.is_contiguous() for parameter in trained().parameters())


def test_huge_learning_rate_raises_divergence():
    with pytest.raises(TrainingDiverged, match="epoch 1 of 3"):
        trained(Settings(epochs=3, batch_size=32, learning_rate=1e30))
