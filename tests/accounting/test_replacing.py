"""Epsilon of the replace-one relation, and the proof that the composed pair is the worst."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ppml.accounting import replacing
from ppml.accounting.cross_check import stated_epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.accounting.pld import ERROR
from ppml.accounting.replacing import epsilon_replace_one

from .reference import exact_epsilon_of_gaussians, replaced_epsilons

DELTA = 1e-5


@pytest.mark.parametrize(
    ("noise", "steps", "replaced"),
    [(39.8883385488507, 40, 1.20), (14.327942132425612, 100, 6.47), (6.1223604815685455, 150, 24.4)],
)
def test_full_batches_are_exact(noise, steps, replaced):
    found = epsilon_replace_one([MechanismEvent(1.0, noise, steps, 0.1)], DELTA)
    assert found == pytest.approx(exact_epsilon_of_gaussians(noise / 2, steps, DELTA), abs=1e-7)
    assert round(found, 2 if found < 20 else 1) == replaced


SAMPLED = [(0.1, 6.53, 100), (0.1, 2.24, 200), (0.0256, 0.571, 195), (0.5, 3.0, 20)]


@pytest.mark.parametrize(("rate", "noise", "steps"), SAMPLED)
def test_sampled_steps_are_bounded_within_the_error_of_pld(rate, noise, steps):
    events = [MechanismEvent(rate, noise, steps, 1.0)]
    (true,) = replaced_epsilons(rate, noise, (steps,), DELTA)
    found = epsilon_replace_one(events, DELTA)
    assert true - 1e-4 <= found <= true + ERROR
    assert found > stated_epsilon(events, DELTA, "tightest")[0]


def test_two_replacements_give_the_bound_if_pld_fails(monkeypatch):
    events = [MechanismEvent(0.1, 6.53, 100, 1.0)]
    found = epsilon_replace_one(events, DELTA)

    def fails(*given):
        raise AccountantFailed("no epsilon")

    small = epsilon_replace_one(events, 1e-12)
    monkeypatch.setattr(replacing.pld, "replace_one_epsilons", fails)
    by_two = epsilon_replace_one(events, DELTA)
    assert found < by_two < small
    # Each replacement has half of the epsilon at delta / (1 + exp(half)).
    half = by_two / 2
    assert stated_epsilon(events, DELTA / (1 + math.exp(half)), "rdp")[0] == pytest.approx(half, rel=1e-5)


def test_replace_one_epsilon_of_extreme_values():
    assert epsilon_replace_one([], DELTA) == 0.0
    assert epsilon_replace_one([MechanismEvent(0.1, 0.0, 1, 1.0)], DELTA) == math.inf
    assert 1000 < epsilon_replace_one([MechanismEvent(0.5, 0.1, 100, 1.0)], DELTA) < math.inf


def divergence(rate: float, noise: float, one: tuple[float, float], other: tuple[float, float], factor: float) -> float:
    """Return the hockey-stick divergence of mixtures in two dimensions, by integration over the plane."""
    reach = np.linspace(-6 * noise - 1, 6 * noise + 1, 400)
    x, y = np.meshgrid(reach, reach)

    def density(shift: tuple[float, float]) -> np.ndarray:
        def normal(at: tuple[float, float]) -> np.ndarray:
            return np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 2 / noise**2) / (2 * math.pi * noise**2)

        return (1 - rate) * normal((0.0, 0.0)) + rate * normal(shift)

    return float(np.maximum(density(one) - factor * density(other), 0).sum() * (reach[1] - reach[0]) ** 2)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3, 3.0])
@pytest.mark.parametrize(("rate", "noise"), [(0.1, 0.5), (0.5, 1.0), (0.9, 2.0)])
def test_opposite_contributions_of_norm_1_are_the_worst_pair(rate, noise, factor):
    worst = divergence(rate, noise, (1.0, 0.0), (-1.0, 0.0), factor)
    rng = np.random.default_rng(1)
    for _ in range(12):
        angle, norms = rng.uniform(0, 2 * math.pi), rng.uniform(0, 1, 2) ** 0.5
        other = (norms[1] * math.cos(angle), norms[1] * math.sin(angle))
        assert divergence(rate, noise, (norms[0], 0.0), other, factor) <= worst + 1e-7
