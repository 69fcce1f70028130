from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.learning import loop
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow, learning_rate
from ppml.randomness import Randomness

from .digits import cnn, some


@given(rounds=st.integers(1, 60))
@settings(deadline=None, derandomize=True)
def test_windows_of_rounds_tile_training(rounds):
    spans = [TrainingWindow((number - 1) / rounds, number / rounds) for number in range(1, rounds + 1)]
    assert spans[0].at(0.0) == 0.0
    assert spans[-1].at(1.0) == pytest.approx(1.0)
    for before, after in pairwise(spans):
        assert before.at(1.0) == pytest.approx(after.at(0.0))


def test_learning_rate_schedules():
    assert [learning_rate(0.4, "linear", position) for position in (0.0, 0.5, 1.0)] == [0.4, 0.2, 0.0]
    assert [learning_rate(0.4, "constant", position) for position in (0.0, 0.5, 1.0)] == [0.4] * 3


def rates_of(make, monkeypatch, *, rounds: int, epochs: int) -> list[float]:
    """Return the learning rate of every step of ``rounds`` calls, as the optimiser gets it."""
    used: list[float] = []

    def recorded(peak: float, learning_rate_schedule: str, position: float) -> float:
        used.append(learning_rate(peak, learning_rate_schedule, position))
        return used[-1]

    monkeypatch.setattr(loop, "learning_rate", recorded)
    learner = make(Settings(epochs=epochs, batch_size=10, learning_rate=0.1))
    for number in range(1, rounds + 1):
        window = TrainingWindow((number - 1) / rounds, number / rounds)
        learner.fit(cnn(), some(40), window=window, rng=Randomness(number))
    return used


@pytest.mark.parametrize(
    "make",
    [SgdLearner, lambda walk: DpSgdLearner(walk, noise_multiplier=1.0, max_grad_norm=0.1)],
    ids=["sgd", "dpsgd"],
)
def test_rounds_use_learning_rates_of_one_training(make, monkeypatch):
    in_rounds = rates_of(make, monkeypatch, rounds=3, epochs=1)
    at_once = rates_of(make, monkeypatch, rounds=1, epochs=3)
    assert in_rounds == pytest.approx(at_once)
    assert in_rounds == pytest.approx(0.1 * (1 - np.arange(12) / 12))


@given(
    start=st.floats(0, 1), length=st.floats(0, 1), shares=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted)
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_window_preserves_order(start, length, shares):
    window = TrainingWindow(start, start + length)
    assert window.at(shares[0]) <= window.at(shares[1])
