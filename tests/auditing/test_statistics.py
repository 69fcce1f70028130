"""Correct mechanisms are acquitted as often as promised, and every p-value is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppml.auditing.canary import Measurement
from ppml.auditing.epsilon_floor import epsilon_floor
from ppml.auditing.reference_gradients import along
from ppml.auditing.statistics import Coins, Noise, binomial, coins, likest, same_again
from ppml.auditing.verdict import CHECKS, judge

SHAPES, RATE, STEPS, RECORDS, OWNERS = (300, 20), 0.1, 40, 20, 2
AUDITS, FAMILY = 200, 30


def simulated(seed: int, *, strength: float = 1.0, rate: float = RATE) -> Measurement:
    """Return what the audit of an ideal mechanism measures: its releases are drawn, and no model is trained."""
    rng = np.random.default_rng(seed)
    noise, draws = Noise(SHAPES), {owner: Coins(RATE) for owner in range(OWNERS)}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        for owner, one in draws.items():
            one.drawn.append(rng.random(RECORDS) < rate)
            vector = strength * torch.randn(sum(SHAPES), generator=generator)
            records = torch.randn(2, sum(SHAPES), generator=generator)
            size = int(one.drawn[-1].sum())
            noise.add_release(vector, along(records, vector, SHAPES), size=size, records=size * records[0])
            noise.add_share(vector, owner)
    flips = np.concatenate([one.steps for one in draws.values()])
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
        drawn=int(flips.sum()),
        coins=flips.size,
        accounted=(),
        p_values={**noise.p_values(), "coins": coins(draws)},
    )


def accused(measurements: list[Measurement], *, confidence: float, family: int) -> int:
    verdicts = [judge(one.to_json(), confidence=confidence, family=family) for one in measurements]
    return sum(not verdict.held for verdict in verdicts)


@pytest.fixture(scope="module")
def correct() -> list[Measurement]:
    return [simulated(seed) for seed in range(AUDITS)]


def test_of_200_correct_mechanisms_none_is_accused_at_the_level_of_an_arm_in_a_family(correct):
    """1 % for a family of 30: an arm is accused once in 3,000 audits, so that of 200 one is in 1 of 15 at most."""
    assert accused(correct, confidence=0.99, family=FAMILY) == 0


def test_the_level_is_kept_where_it_can_be_seen(correct):
    """At 70 % confidence at most 30 % may be accused: more than 80 of 200 are, once in 1,000, where it is just 30."""
    found = accused(correct, confidence=0.7, family=1)
    assert 10 < found <= 80


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "secure"])
def test_no_p_value_is_too_small_too_often(correct, name):
    """One in ten is below .1 at most: more than 35 of 200 are, once in 1,000."""
    assert sum(one.p_values[name] < 0.1 for one in correct) <= 35


def test_a_tenth_less_noise_and_half_as_many_draws_again_are_accused():
    assert accused([simulated(1, strength=0.9)], confidence=0.99, family=FAMILY) == 1
    assert simulated(2, rate=1.5 * RATE).p_values["coins"] < 1e-6


def test_components_are_those_of_an_orthonormal_basis_a_tensor():
    directions = torch.tensor([[3.0, 4.0, 0.0, 0.0], [3.0, 4.0, 0.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
    found = along(directions, torch.tensor([1.0, 2.0, 7.0, -5.0]), (2, 2))
    # The first two values along (3, 4) / 5, once; of the last two, the second.
    assert sorted(abs(value) for value in found) == pytest.approx([2.2, 5.0])


def test_noise_that_comes_again_is_found_wherever_it_is():
    vectors = np.random.default_rng(3).standard_normal((40, 2048)).astype(np.float32)
    assert likest(vectors) > 0.01
    assert likest(np.concatenate([vectors, -2 * vectors[11:12]])) < 1e-9
    assert likest(np.zeros((2, 2048), dtype=np.float32)) == 0.0
    assert same_again(vectors, vectors[::-1]) > 0.001 and same_again(vectors, vectors) < 1e-9


def test_coins_that_owners_share_or_that_alternate_are_found():
    rng = np.random.default_rng(4)
    mine, yours = ([rng.random(20) < 0.5 for _ in range(64)] for _ in range(2))
    assert coins({0: Coins(0.5, mine), 1: Coins(0.5, yours)}) > 0.01
    assert coins({0: Coins(0.5, mine), 1: Coins(0.5, mine)}) < 1e-9
    pairs = [step ^ bool(number % 2) for number, step in enumerate(np.repeat(mine[:32], 2, axis=0))]
    assert coins({0: Coins(0.5, pairs)}) < 1e-9
    assert coins({0: Coins(1.0, [np.ones(8, dtype=bool)])}) == 1.0
    assert coins({0: Coins(1.0, [np.arange(8) < 7])}) == 0.0


@pytest.mark.parametrize(("successes", "trials", "chance"), [(5, 10, 0.5), (0, 20, 0.1), (40, 40, 0.3)])
def test_a_count_is_judged_by_its_nearer_tail(successes, trials, chance):
    drawn = np.random.default_rng(5).binomial(trials, chance, 200_000)
    tail = min((drawn <= successes).mean(), (drawn >= successes).mean())
    assert binomial(successes, trials, chance) == pytest.approx(min(1.0, 2 * tail), abs=0.01)


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_the_floor_of_epsilon_is_below_and_near_what_an_accountant_states(rate):
    from dp_accounting.pld import privacy_loss_distribution

    step = privacy_loss_distribution.from_gaussian_mechanism(2.0, sampling_prob=rate)
    stated = step.self_compose(20).get_epsilon_for_delta(1e-5)
    found = epsilon_floor(noise_multiplier=2.0, sample_rate=rate, steps=20, delta=1e-5)
    assert 0.97 * stated < found <= stated
