"""The audit accepts correct trainings, and names the fault of a faulty one."""

from __future__ import annotations

import dataclasses

import pytest

from ppml.auditing.epsilon_floor import epsilon_floor
from ppml.auditing.verdict import CHECKS, noise_interval

from ..learning import planted
from ..learning.digits import one_thread
from . import faults
from .arms import ARMS, CLIP, DELTA, SIGMA, arm_of, evaluate, measure

__all__ = ["one_thread"]

pytestmark = pytest.mark.usefixtures("one_thread")

# Correct trainings.


@pytest.mark.parametrize("name", ARMS)
def test_audit_accepts_every_kind_of_private_training(name):
    found = measure(arm_of(name))
    verdict = evaluate(found)
    assert verdict.violations == () and verdict.unclear == ()
    assert verdict.low <= SIGMA <= verdict.high < 1.6 * verdict.low
    assert found.canary_norm > 3 * CLIP
    assert found.contribution == pytest.approx(CLIP, rel=2e-3)
    assert found.parameters == 7_850 and found.releases >= 26 and found.measurements >= 300


def test_audit_accepts_secure_noise_and_samples():
    # The draws differ in each run, so the confidence excludes false alarms.
    for name in ("one", "federated", "shares", "server"):
        found = measure(arm_of(name, noise_source="secure"))
        assert "secure" in found.p_values
        assert evaluate(found, confidence=1 - 1e-6).violations == ()


def test_audit_is_deterministic_given_its_seed():
    first = measure(arm_of("one"))
    assert measure(arm_of("one")) == first
    assert measure(arm_of("one"), seed=1).estimate != first.estimate


def test_owners_of_different_sizes_have_different_sample_rates():
    found = measure(arm_of("federated"), sizes=(250, 500, 1000, 2000))
    assert evaluate(found).violations == ()
    # Four rounds; the owners' epochs have 2, 5, 10 and 20 steps.
    assert found.releases == 4 * (2 + 5 + 10 + 20)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"measurements": 20}, "too wide"), ({"canary_norm": 1.9 * CLIP}, "too small")],
    ids=["few measurements", "short gradients"],
)
def test_weak_audit_is_unclear(change, reason):
    verdict = evaluate(dataclasses.replace(measure(arm_of("one")), **change))
    (unclear,) = verdict.unclear
    assert verdict.violations == () and verdict.held and reason in unclear


# Faulty trainings.

LITTLE = "claims noise multiplier"
STEPS = "are accounted for"
FAULTS = [
    ("one", planted.half_the_noise, LITTLE),
    ("one", planted.a_tenth_less_noise, CHECKS["releases"]),
    ("one", planted.no_noise, LITTLE),
    ("one", planted.half_the_noise_under_momentum, LITTLE),
    ("federated", planted.half_the_noise_under_momentum, LITTLE),
    ("full batch", planted.no_noise_in_the_last_step, CHECKS["releases"]),
    ("one", planted.no_noise_on_the_last_parameter, CHECKS["tensors"]),
    ("one", planted.repeated_noise, CHECKS["repeats"]),
    ("one", planted.uniform_noise, CHECKS["shape"]),
    ("one", planted.doubled_clipping_norm, "more than clipping norm"),
    ("shares", planted.doubled_clipping_norm, "more than clipping norm"),
    ("one", planted.no_clipping, "more than clipping norm"),
    ("one", planted.no_clipping_with_noise, CHECKS["records"]),
    ("one", planted.division_by_the_sample_size, "is not the sum of the clipped gradients"),
    ("one", planted.doubled_sample_rate, CHECKS["coins"]),
    ("one", planted.samples_of_one_size, CHECKS["coins"]),
    ("one", planted.skipped_empty_samples, "steps, planned are"),
    ("federated", planted.noise_in_the_first_round_only, CHECKS["releases"]),
    ("federated", faults.equal_noise_of_all_clients, CHECKS["repeats"]),
    ("shares", faults.equal_noise_of_all_clients, CHECKS["repeats"]),
    ("shares", faults.counted_colluder, CHECKS["releases"]),
    ("client shares", faults.counted_colluder, CHECKS["releases"]),
    ("shares", faults.client_without_noise, CHECKS["parties"]),
    ("client shares", faults.client_level_client_without_noise, CHECKS["parties"]),
    ("shares", faults.half_the_noise_of_every_client, LITTLE),
    ("server", faults.half_the_noise_of_the_server, LITTLE),
    ("server", faults.doubled_update_norm, "more than clipping norm"),
    ("client shares", faults.doubled_update_norm, "more than clipping norm"),
    ("federated", faults.shifted_update, "differs from the effect of its noisy steps"),
    ("federated", faults.reset_account, STEPS),
    ("shares", faults.reset_account, STEPS),
    ("one", planted.a_step_less_accounted, STEPS),
    ("federated", planted.a_step_less_accounted, STEPS),
    ("one", planted.wrong_noise_accounted, "accounts for noise multiplier"),
    ("one", planted.missing_step_per_epoch, "steps, planned are"),
    ("federated", planted.extra_step_per_epoch, "steps, planned are"),
    ("budget", planted.ignored_budget, "steps, planned are"),
]
FAULTS_OF_SECURE_ARMS = [
    ("one", planted.seeded_noise, "noise drawn from 'seeded'"),
    ("one", planted.seeded_samples, "samples drawn from 'seeded'"),
    ("federated", planted.seeded_noise, "noise drawn from 'seeded'"),
    ("shares", faults.seeded_noise_in_sums, "noise drawn from 'seeded'"),
    ("server", faults.seeded_noise_in_sums, "noise drawn from 'seeded'"),
    ("one", planted.seeded_noise_labelled_secure, CHECKS["secure"]),
    ("one", planted.seeded_samples, CHECKS["secure"]),
]


@pytest.mark.parametrize(
    ("name", "fault", "violation", "source"),
    [*((*row, "seeded") for row in FAULTS), *((*row, "secure") for row in FAULTS_OF_SECURE_ARMS)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_audit_names_a_planted_fault(name, fault, violation, source):
    with fault():
        found = measure(arm_of(name, noise_source=source))
    violations = evaluate(found).violations
    assert any(violation in line for line in violations), violations


# Power of the audit.


@pytest.mark.parametrize(
    ("rate", "noise_multiplier", "steps", "measurements"),
    # Full batches in 150 steps, samples in 200 steps, and small samples of a large model, each at epsilon 10.
    [(1.0, 6.122, 150, 512), (0.1, 0.999, 200, 2048), (0.0256, 0.571, 195, 2048)],
)
def test_audit_recovers_four_fifths_of_epsilon_10(rate, noise_multiplier, steps, measurements):
    """At the median of the estimate, for 30 arms at 99 %."""
    _, high = noise_interval(noise_multiplier, measurements, 0.01 / 30 / 2)
    known = {"sample_rate": rate, "steps": steps, "delta": DELTA}
    claimed = epsilon_floor(noise_multiplier=noise_multiplier, **known)
    assert 9.5 < claimed < 10.2
    assert epsilon_floor(noise_multiplier=high, **known) >= 0.8 * claimed
