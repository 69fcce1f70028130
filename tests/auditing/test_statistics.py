"""The audit accepts correct mechanisms with the promised confidence, and its p-values are valid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppml.auditing.canary import Measurement
from ppml.auditing.epsilon_floor import epsilon_floor
from ppml.auditing.reference_gradients import components_along
from ppml.auditing.statistics import (
    Inclusions,
    NoiseStatistics,
    binomial,
    correlation_test,
    inclusion_test,
    repeat_test,
)
from ppml.auditing.verdict import CHECKS, evaluate_audit

SHAPES, RATE, STEPS, RECORDS, OWNERS = (300, 20), 0.1, 40, 20, 2
AUDITS, FAMILY = 200, 30


def simulated(seed: int, *, strength: float = 1.0, rate: float = RATE) -> Measurement:
    """Return the measurement of an ideal mechanism, with simulated releases."""
    rng = np.random.default_rng(seed)
    noise, inclusions = NoiseStatistics(SHAPES), {owner: Inclusions(RATE) for owner in range(OWNERS)}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        for owner, one in inclusions.items():
            one.rows.append(rng.random(RECORDS) < rate)
            vector = strength * torch.randn(sum(SHAPES), generator=generator)
            gradients = torch.randn(2, sum(SHAPES), generator=generator)
            size = int(one.rows[-1].sum())
            noise.add_release(
                vector, components_along(gradients, vector, SHAPES), size=size, signal=size * gradients[0]
            )
            noise.add_party_noise(vector, owner)
    samples = np.concatenate([one.matrix for one in inclusions.values()])
    return Measurement(
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        estimate=noise.ratio(),
        releases=noise.releases,
        measurements=len(noise.along),
        parameters=noise.values,
        canary_norm=20.0,
        contribution=1.0,
        deviation=0.0,
        drawn=int(samples.sum()),
        coins=samples.size,
        accounted=(),
        p_values={**noise.p_values(), "coins": inclusion_test(inclusions)},
    )


def count_violations(measurements: list[Measurement], *, confidence: float, family: int) -> int:
    verdicts = [evaluate_audit(one.to_json(), confidence=confidence, family=family) for one in measurements]
    return sum(not verdict.held for verdict in verdicts)


@pytest.fixture(scope="module")
def correct() -> list[Measurement]:
    return [simulated(seed) for seed in range(AUDITS)]


def test_200_correct_mechanisms_have_no_violation(correct):
    """At 1 % for a family of 30, one of 3,000 correct arms has a violation; one of 200 with probability 1/15."""
    assert count_violations(correct, confidence=0.99, family=FAMILY) == 0


def test_low_confidence_has_the_stated_rate_of_violations(correct):
    """At 70 % confidence at most 30 % have a violation: more than 80 of 200 with probability 1/1,000."""
    found = count_violations(correct, confidence=0.7, family=1)
    assert 10 < found <= 80


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "secure"])
def test_p_values_are_valid(correct, name):
    """At most one in ten is below .1: more than 35 of 200 with probability 1/1,000."""
    assert sum(one.p_values[name] < 0.1 for one in correct) <= 35


def test_less_noise_and_a_higher_sample_rate_are_violations():
    assert count_violations([simulated(1, strength=0.9)], confidence=0.99, family=FAMILY) == 1
    assert simulated(2, rate=1.5 * RATE).p_values["coins"] < 1e-6


def test_components_use_an_orthonormal_basis_per_tensor():
    directions = torch.tensor([[3.0, 4.0, 0.0, 0.0], [3.0, 4.0, 0.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
    found = components_along(directions, torch.tensor([1.0, 2.0, 7.0, -5.0]), (2, 2))
    # The first tensor has one component along (3, 4) / 5; the second has its last value.
    assert sorted(abs(value) for value in found) == pytest.approx([2.2, 5.0])


def test_correlation_tests_detect_repeated_noise():
    vectors = np.random.default_rng(3).standard_normal((40, 2048)).astype(np.float32)
    assert correlation_test(vectors) > 0.01
    assert correlation_test(np.concatenate([vectors, -2 * vectors[11:12]])) < 1e-9
    assert correlation_test(np.zeros((2, 2048), dtype=np.float32)) == 0.0
    assert repeat_test(vectors, vectors[::-1]) > 0.001 and repeat_test(vectors, vectors) < 1e-9


def test_inclusion_test_detects_dependent_samples():
    rng = np.random.default_rng(4)
    first, second = ([rng.random(20) < 0.5 for _ in range(64)] for _ in range(2))
    assert inclusion_test({0: Inclusions(0.5, first), 1: Inclusions(0.5, second)}) > 0.01
    assert inclusion_test({0: Inclusions(0.5, first), 1: Inclusions(0.5, first)}) < 1e-9
    pairs = [step ^ bool(number % 2) for number, step in enumerate(np.repeat(first[:32], 2, axis=0))]
    assert inclusion_test({0: Inclusions(0.5, pairs)}) < 1e-9
    assert inclusion_test({0: Inclusions(1.0, [np.ones(8, dtype=bool)])}) == 1.0
    assert inclusion_test({0: Inclusions(1.0, [np.arange(8) < 7])}) == 0.0


@pytest.mark.parametrize(("successes", "trials", "probability"), [(5, 10, 0.5), (0, 20, 0.1), (40, 40, 0.3)])
def test_binomial_p_value_doubles_the_nearer_tail(successes, trials, probability):
    drawn = np.random.default_rng(5).binomial(trials, probability, 200_000)
    tail = min((drawn <= successes).mean(), (drawn >= successes).mean())
    assert binomial(successes, trials, probability) == pytest.approx(min(1.0, 2 * tail), abs=0.01)


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_epsilon_floor_is_a_tight_lower_bound(rate):
    from dp_accounting.pld import privacy_loss_distribution

    step = privacy_loss_distribution.from_gaussian_mechanism(2.0, sampling_prob=rate)
    stated = step.self_compose(20).get_epsilon_for_delta(1e-5)
    found = epsilon_floor(noise_multiplier=2.0, sample_rate=rate, steps=20, delta=1e-5)
    assert 0.97 * stated < found <= stated
