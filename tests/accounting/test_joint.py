"""The joint epsilon of several models of the same examples is that of their composition."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from ppml.accounting.cross_check import stated_epsilon
from ppml.accounting.events import MechanismEvent
from ppml.accounting.joint import dominating_mechanism, joint_epsilon

from .reference import exact_epsilon_of_gaussians, zeroed_epsilons

DELTA = 1e-5
ONE = MechanismEvent(1.0, 39.8883385488507, 40, 0.1)
STEP = MechanismEvent(0.1, 2.0, 50, 0.1)


@pytest.mark.parametrize(
    ("noise", "steps", "single", "five"),
    [(39.8883385488507, 40, 0.563, 1.36), (14.327942132425612, 100, 2.9, 7.39), (6.1223604815685455, 150, 10.0, 28.4)],
)
def test_five_full_batch_models_have_the_epsilon_of_five_times_the_steps(noise, steps, single, five):
    event = MechanismEvent(1.0, noise, steps, 0.1)
    assert joint_epsilon([(event,)], DELTA)[0] == pytest.approx(single, abs=1e-3)
    joint, accountant = joint_epsilon([(event,)] * 5, DELTA)
    assert (round(joint, 2 if five < 20 else 1), accountant) == (five, "gdp")
    assert joint == pytest.approx(exact_epsilon_of_gaussians(noise, 5 * steps, DELTA), abs=1e-7)


def test_sampled_and_full_batch_models_compose():
    joint, accountant = joint_epsilon([(STEP,), (STEP,)], DELTA)
    (true,) = zeroed_epsilons(STEP.sample_rate, STEP.noise_multiplier, (2 * STEP.steps,), DELTA)
    assert true - 1e-4 <= joint <= true + 0.01 and accountant == "pld"
    mixed, _ = joint_epsilon([(STEP,), (STEP,), (ONE,)], DELTA)
    assert joint < mixed < joint_epsilon([(STEP,)] * 2, DELTA)[0] + joint_epsilon([(ONE,)], DELTA)[0]
    assert mixed == pytest.approx(stated_epsilon([STEP, STEP, ONE], DELTA, "tightest")[0], abs=0.01)


def test_joint_epsilon_of_extreme_values():
    assert joint_epsilon([], DELTA)[0] == joint_epsilon([(), (replace(STEP, steps=0),)], DELTA)[0] == 0.0
    assert joint_epsilon([(STEP,), (replace(STEP, noise_multiplier=0.0, steps=1),)], DELTA)[0] == math.inf
    assert joint_epsilon([(STEP,)] * 4000, DELTA)[1] == "rdp"
    assert joint_epsilon([(STEP,)], 1e-13) == (stated_epsilon([STEP], 1e-13, "rdp")[0], "rdp")
    with pytest.raises(ValueError, match="sampler 'shuffled'"):
        joint_epsilon([(replace(STEP, sampler="shuffled"),)], DELTA)


def test_joint_epsilon_of_100_models_takes_seconds():
    kinds = [MechanismEvent(0.02 + 0.002 * kind, 3 + 0.1 * kind, 100, 1.0) for kind in range(25)]
    began = time.process_time()
    joint, _ = joint_epsilon([(kind,) for kind in kinds for _ in range(4)], DELTA)
    assert time.process_time() - began < 10
    worst = replace(kinds[0], sample_rate=kinds[-1].sample_rate, steps=100 * 100)
    assert (
        max(stated_epsilon([kind], DELTA, "rdp")[0] for kind in kinds)
        < joint
        < stated_epsilon([worst], DELTA, "rdp")[0]
    )


# The dominating mechanism of all owners.

OWNERS = [
    (STEP,),
    (replace(STEP, sample_rate=0.12, steps=40),),
    (replace(STEP, noise_multiplier=1.9, steps=30), replace(STEP, steps=25)),
    (),
]


def check_dominates(found: tuple[MechanismEvent, ...]) -> None:
    for own in filter(None, OWNERS):
        assert stated_epsilon(found, DELTA, "rdp")[0] >= stated_epsilon(own, DELTA, "rdp")[0]


def test_dominating_mechanism_has_largest_rate_least_noise_and_most_steps():
    found = dominating_mechanism(OWNERS)
    assert found == (MechanismEvent(0.12, 1.9, 55, 0.1),)
    check_dominates(found)
    assert dominating_mechanism([(STEP,), (STEP,)]) == (STEP,)
    assert dominating_mechanism([(), ()]) == ()
    for weaker in ({"sample_rate": 0.08}, {"noise_multiplier": 3.0}, {"steps": 20}):
        with pytest.raises(AssertionError):
            check_dominates(tuple(replace(event, **weaker) for event in found))


def test_source_is_secure_only_if_all_are_secure():
    secure = replace(STEP, noise_source="secure", sampling_source="secure")
    assert dominating_mechanism([(secure,), (secure,)]) == (secure,)
    mixed = dominating_mechanism([(secure,), (replace(secure, noise_source="seeded"),)])
    assert (mixed[0].noise_source, mixed[0].sampling_source) == ("seeded", "secure")
