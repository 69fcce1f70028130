"""The audit acquits the trainings that are right, and names what is wrong with one that has a fault."""

from __future__ import annotations

import dataclasses

import pytest

from ppml.auditing.epsilon_floor import epsilon_floor
from ppml.auditing.verdict import CHECKS, noise_interval
from tests.learning.digits import one_thread

from . import faults
from .arms import ARMS, CLIP, DELTA, SIGMA, arm_of, measured, verdict

__all__ = ["one_thread"]

pytestmark = pytest.mark.usefixtures("one_thread")

# --- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARMS)
def test_every_kind_of_private_training_is_acquitted(name):
    found = measured(arm_of(name))
    judged = verdict(found)
    assert judged.faults == () and judged.unclear == ()
    assert judged.low <= SIGMA <= judged.high < 1.6 * judged.low
    assert found.canary_norm > 3 * CLIP
    assert found.contribution == pytest.approx(CLIP, rel=2e-3)
    assert found.parameters == 7_850 and found.releases >= 26 and found.measurements >= 300


def test_noise_and_samples_of_the_operating_system_are_acquitted():
    # Other draws each time: a confidence at which a test sees no false alarm.
    for name in ("one", "federated", "shares", "server"):
        found = measured(arm_of(name, noise_source="secure"))
        assert "secure" in found.p_values
        assert verdict(found, confidence=1 - 1e-6).faults == ()


def test_an_audit_repeats_to_the_bit_and_another_seed_draws_other_noise():
    first = measured(arm_of("one"))
    assert measured(arm_of("one")) == first
    assert measured(arm_of("one"), seed=1).estimate != first.estimate


def test_owners_of_different_sizes_are_sampled_at_rates_of_their_own():
    found = measured(arm_of("federated"), sizes=(250, 500, 1000, 2000))
    assert verdict(found).faults == ()
    # A quarter of an epoch of each, and four rounds: 2, 5, 10 and 20 steps an epoch.
    assert found.releases == 4 * (2 + 5 + 10 + 20)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"measurements": 20}, "half the noise cannot be told"), ({"canary_norm": 1.9 * CLIP}, "too short to show")],
    ids=["few measurements", "short gradients"],
)
def test_an_audit_that_shows_little_accuses_nobody_and_acquits_nobody(change, why):
    judged = verdict(dataclasses.replace(measured(arm_of("one")), **change))
    (reason,) = judged.unclear
    assert judged.faults == () and judged.held and why in reason


# --- what is wrong ----------------------------------------------------------------------------------------------------

LITTLE = "claims noise multiplier"
STEPS = "are accounted for"
FAULTS = [
    ("one", faults.half_the_noise, LITTLE),
    ("one", faults.a_tenth_less_noise, CHECKS["releases"]),
    ("one", faults.no_noise, LITTLE),
    ("one", faults.half_the_noise_under_momentum, LITTLE),
    ("federated", faults.half_the_noise_under_momentum, LITTLE),
    ("full batch", faults.none_on_the_last_step, CHECKS["releases"]),
    ("one", faults.none_on_the_last_parameter, CHECKS["tensors"]),
    ("one", faults.the_same_noise_each_step, CHECKS["repeats"]),
    ("one", faults.uniform_noise, CHECKS["shape"]),
    ("one", faults.twice_the_clipping_norm, "more than clipping norm"),
    ("shares", faults.twice_the_clipping_norm, "more than clipping norm"),
    ("one", faults.no_clipping, "more than clipping norm"),
    ("one", faults.no_clipping_where_there_is_noise, CHECKS["records"]),
    ("one", faults.division_by_the_size_of_the_sample, "is not the sum of the clipped gradients"),
    ("one", faults.sampled_at_twice_the_rate, CHECKS["coins"]),
    ("one", faults.sampled_by_shuffling, CHECKS["coins"]),
    ("one", faults.empty_samples_left_out, "steps, planned are"),
    ("federated", faults.noise_in_the_first_round_only, CHECKS["releases"]),
    ("federated", faults.the_noise_of_client_0_at_every_client, CHECKS["repeats"]),
    ("shares", faults.the_noise_of_client_0_at_every_client, CHECKS["repeats"]),
    ("shares", faults.a_colluder_that_counts, CHECKS["releases"]),
    ("client shares", faults.a_colluder_that_counts, CHECKS["releases"]),
    ("shares", faults.a_client_without_its_share, CHECKS["parties"]),
    ("client shares", faults.a_client_that_changes_its_share, CHECKS["parties"]),
    ("shares", faults.half_of_every_share, LITTLE),
    ("server", faults.half_the_noise_of_the_server, LITTLE),
    ("server", faults.updates_of_twice_the_norm, "more than clipping norm"),
    ("client shares", faults.updates_of_twice_the_norm, "more than clipping norm"),
    ("federated", faults.an_update_without_the_noise_of_its_last_step, "a client sends something else"),
    ("federated", faults.an_account_that_is_reset, STEPS),
    ("shares", faults.an_account_that_is_reset, STEPS),
    ("one", faults.half_of_the_steps_accounted, STEPS),
    ("federated", faults.half_of_the_steps_accounted, STEPS),
    ("one", faults.another_noise_accounted, "accounts for noise multiplier"),
    ("one", faults.a_step_less_an_epoch, "steps, planned are"),
    ("federated", faults.a_step_more_an_epoch, "steps, planned are"),
    ("budget", faults.a_budget_that_is_ignored, "steps, planned are"),
]


@pytest.mark.parametrize(("name", "fault", "said"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_fault_is_named(name, fault, said):
    with fault():
        found = measured(arm_of(name))
    assert any(said in line for line in verdict(found).faults), verdict(found).faults


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [
        ("one", faults.seeded_noise_of_owners, "noise drawn from 'seeded'"),
        ("one", faults.seeded_samples, "samples drawn from 'seeded'"),
        ("federated", faults.seeded_noise_of_owners, "noise drawn from 'seeded'"),
        ("shares", faults.seeded_noise_in_sums, "noise drawn from 'seeded'"),
        ("server", faults.seeded_noise_in_sums, "noise drawn from 'seeded'"),
        ("one", faults.seeded_noise_that_says_secure, CHECKS["secure"]),
        ("one", faults.seeded_samples, CHECKS["secure"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_seeded_draws_where_secure_ones_are_configured_are_named(name, fault, said):
    with fault():
        found = measured(arm_of(name, noise_source="secure"))
    assert any(said in line for line in verdict(found).faults), verdict(found).faults


# --- what it is worth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "noise_multiplier", "steps", "measurements"),
    # All records in 150 steps; samples in 200 steps; small samples of a large model: each at epsilon 10, about.
    [(1.0, 6.122, 150, 512), (0.1, 0.999, 200, 2048), (0.0256, 0.571, 195, 2048)],
)
def test_four_fifths_of_an_epsilon_of_10_are_recovered(rate, noise_multiplier, steps, measurements):
    """In the middle of the law of the estimate, among 30 arms at 99 %."""
    _, high = noise_interval(noise_multiplier, measurements, 0.01 / 30 / 2)
    known = {"sample_rate": rate, "steps": steps, "delta": DELTA}
    claimed = epsilon_floor(noise_multiplier=noise_multiplier, **known)
    assert 9.5 < claimed < 10.2
    assert epsilon_floor(noise_multiplier=high, **known) >= 0.8 * claimed
