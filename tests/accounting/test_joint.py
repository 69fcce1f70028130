"""Several models of the same records spend what their composition does."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from ppml.accounting.cross_check import stated
from ppml.accounting.events import MechanismEvent
from ppml.accounting.joint import dominating, joint_epsilon

from .reference import exact_epsilon_of_gaussians, zeroed_epsilons

DELTA = 1e-5
ONE = MechanismEvent(1.0, 39.8883385488507, 40, 0.1)
STEP = MechanismEvent(0.1, 2.0, 50, 0.1)


@pytest.mark.parametrize(
    ("noise", "steps", "alone", "five"),
    [(39.8883385488507, 40, 0.563, 1.36), (14.327942132425612, 100, 2.9, 7.39), (6.1223604815685455, 150, 10.0, 28.4)],
)
def test_five_seeds_at_full_batches_spend_what_five_times_the_steps_do(noise, steps, alone, five):
    event = MechanismEvent(1.0, noise, steps, 0.1)
    assert joint_epsilon([(event,)], DELTA)[0] == pytest.approx(alone, abs=1e-3)
    joint, accountant = joint_epsilon([(event,)] * 5, DELTA)
    assert (round(joint, 2 if five < 20 else 1), accountant) == (five, "gdp")
    assert joint == pytest.approx(exact_epsilon_of_gaussians(noise, 5 * steps, DELTA), abs=1e-7)


def test_sampled_models_are_composed_with_those_on_all_records():
    joint, accountant = joint_epsilon([(STEP,), (STEP,)], DELTA)
    (true,) = zeroed_epsilons(STEP.sample_rate, STEP.noise_multiplier, (2 * STEP.steps,), DELTA)
    assert true - 1e-4 <= joint <= true + 0.01 and accountant == "pld"
    mixed, _ = joint_epsilon([(STEP,), (STEP,), (ONE,)], DELTA)
    assert joint < mixed < joint_epsilon([(STEP,)] * 2, DELTA)[0] + joint_epsilon([(ONE,)], DELTA)[0]
    assert mixed == pytest.approx(stated([STEP, STEP, ONE], DELTA, "tightest")[0], abs=0.01)


def test_the_edges():
    assert joint_epsilon([], DELTA)[0] == joint_epsilon([(), (replace(STEP, steps=0),)], DELTA)[0] == 0.0
    assert joint_epsilon([(STEP,), (replace(STEP, noise_multiplier=0.0, steps=1),)], DELTA)[0] == math.inf
    assert joint_epsilon([(STEP,)] * 4000, DELTA)[1] == "rdp"
    assert joint_epsilon([(STEP,)], 1e-13) == (stated([STEP], 1e-13, "rdp")[0], "rdp")
    with pytest.raises(ValueError, match="sampler 'shuffled'"):
        joint_epsilon([(replace(STEP, sampler="shuffled"),)], DELTA)


def test_a_hundred_models_of_25_kinds_take_seconds():
    kinds = [MechanismEvent(0.02 + 0.002 * kind, 3 + 0.1 * kind, 100, 1.0) for kind in range(25)]
    began = time.process_time()
    joint, _ = joint_epsilon([(kind,) for kind in kinds for _ in range(4)], DELTA)
    assert time.process_time() - began < 10
    worst = replace(kinds[0], sample_rate=kinds[-1].sample_rate, steps=100 * 100)
    assert max(stated([kind], DELTA, "rdp")[0] for kind in kinds) < joint < stated([worst], DELTA, "rdp")[0]


# What dominates all owners.

OWNERS = [
    (STEP,),
    (replace(STEP, sample_rate=0.12, steps=40),),
    (replace(STEP, noise_multiplier=1.9, steps=30), replace(STEP, steps=25)),
    (),
]


def check_dominates(found: tuple[MechanismEvent, ...]) -> None:
    for own in filter(None, OWNERS):
        assert stated(found, DELTA, "rdp")[0] >= stated(own, DELTA, "rdp")[0]


def test_what_dominates_has_the_largest_rate_the_least_noise_and_the_most_steps():
    found = dominating(OWNERS)
    assert found == (MechanismEvent(0.12, 1.9, 55, 0.1),)
    check_dominates(found)
    assert dominating([(STEP,), (STEP,)]) == (STEP,)
    assert dominating([(), ()]) == ()
    for weaker in ({"sample_rate": 0.08}, {"noise_multiplier": 3.0}, {"steps": 20}):
        with pytest.raises(AssertionError):
            check_dominates(tuple(replace(event, **weaker) for event in found))


def test_a_source_is_secure_only_where_all_are():
    secure = replace(STEP, noise_source="secure", sampling_source="secure")
    assert dominating([(secure,), (secure,)]) == (secure,)
    mixed = dominating([(secure,), (replace(secure, noise_source="seeded"),)])
    assert (mixed[0].noise_source, mixed[0].sampling_source) == ("seeded", "secure")
