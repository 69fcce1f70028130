"""Epsilon of the accountants against independent closed forms and brackets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.accounting.calibration import UnreachableEpsilon, calibrate
from ppml.accounting.epsilon import epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.accounting.pld import ERROR as PLD_ERROR
from ppml.accounting.prv import ERROR as PRV_ERROR

from .reference import epsilon_bracket, exact_epsilon_of_gaussians, renyi_epsilon_of_gaussians

DELTA = 1e-5
ACCOUNTANTS = ["prv", "rdp", "pld"]
SLACK = {"prv": 2 * PRV_ERROR, "rdp": 1e-9, "pld": PLD_ERROR}


def event(rate: float = 0.1, noise: float = 1.0, steps: int = 50, **others) -> MechanismEvent:
    return MechanismEvent(rate, noise, steps, 1.0, **others)


def spent(*events: MechanismEvent, accountant: str = "prv", delta: float = DELTA) -> float:
    return epsilon(events, delta, accountant)


# Against independent references.

FULL_BATCH = [(2.0, 4), (1.0, 1), (10.0, 60), (5.0, 300)]


@pytest.mark.parametrize(
    ("accountant", "delta", "slack"), [("prv", 1e-5, 0.03), ("prv", 1e-3, 0.03), ("pld", 1e-5, PLD_ERROR)]
)
@pytest.mark.parametrize(("noise", "steps"), FULL_BATCH)
def test_epsilon_of_full_batches_is_a_tight_upper_bound(noise, steps, accountant, delta, slack):
    exact = exact_epsilon_of_gaussians(noise, steps, delta)
    assert exact <= spent(event(1.0, noise, steps), accountant=accountant, delta=delta) <= exact + slack


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-3])
@pytest.mark.parametrize(("noise", "steps"), [*FULL_BATCH, (100.0, 3), (0.5, 20)])
def test_gdp_is_exact(noise, steps, delta):
    exact = exact_epsilon_of_gaussians(noise, steps, delta)
    assert spent(event(1.0, noise, steps), accountant="gdp", delta=delta) == pytest.approx(exact, abs=1e-7)


def test_gdp_composes_different_noise_exactly():
    mixed = [event(1.0, 4.0, 8), event(1.0, 8.0, 32)]
    # 8 / 16 + 32 / 64 = 1 = 4 / 4.
    assert spent(*mixed, accountant="gdp") == pytest.approx(exact_epsilon_of_gaussians(2.0, 4, DELTA), abs=1e-7)


def test_gdp_fails_for_sampled_steps():
    with pytest.raises(AccountantFailed, match=r"got sample rate 0\.5"):
        spent(event(1.0), event(0.5), accountant="gdp")


@pytest.mark.parametrize("accountant", ["prv", "pld"])
def test_large_epsilons_are_not_composed(accountant):
    with pytest.raises(AccountantFailed, match="above the limit 100"):
        spent(event(0.5, 0.3, 1000), accountant=accountant)
    assert spent(event(0.5, 0.3, 1000), accountant="rdp") > 100


@pytest.mark.parametrize("accountant", ["prv", "pld"])
def test_small_deltas_are_not_composed(accountant):
    with pytest.raises(AccountantFailed):
        spent(event(steps=10), accountant=accountant, delta=1e-16)


@pytest.mark.parametrize(("noise", "steps"), FULL_BATCH)
def test_rdp_is_the_renyi_bound_of_full_batches(noise, steps):
    stated = spent(event(1.0, noise, steps), accountant="rdp")
    assert stated == pytest.approx(renyi_epsilon_of_gaussians(noise, steps, DELTA), rel=0.01)
    assert stated >= exact_epsilon_of_gaussians(noise, steps, DELTA)


SUBSAMPLED = [(0.1, 1.0, 1), (0.1, 1.0, 100), (0.5, 1.0, 2), (0.25, 4.0, 200), (0.064, 1.17, 100)]


def check_upper_bound(rate: float, noise: float, steps: int, stated: float, slack: float = 2 * PRV_ERROR) -> None:
    lower, upper = epsilon_bracket(rate, noise, steps, DELTA)
    assert lower <= stated <= upper + slack


@pytest.mark.parametrize(("rate", "noise", "steps"), [*SUBSAMPLED, (0.0064, 1.0, 780)])
def test_epsilon_of_sampled_steps_is_an_upper_bound(rate, noise, steps):
    by = {name: spent(event(rate, noise, steps), accountant=name) for name in ACCOUNTANTS}
    check_upper_bound(rate, noise, steps, by["prv"])
    check_upper_bound(rate, noise, steps, by["pld"], PLD_ERROR)
    assert abs(by["pld"] - by["prv"]) < 0.05
    assert by["rdp"] > by["prv"]


@pytest.mark.parametrize(("rate", "noise", "steps"), SUBSAMPLED)
def test_check_detects_a_tenth_more_noise_or_fewer_steps(rate, noise, steps):
    for wrong in (event(rate, noise * 1.1, steps), event(rate, noise, steps - max(1, steps // 10))):
        with pytest.raises(AssertionError):
            check_upper_bound(rate, noise, steps, spent(wrong))


# Monotone, and composed.


@given(rate=st.floats(0.01, 0.9), noise=st.floats(1.0, 8.0), steps=st.integers(1, 100))
@settings(max_examples=3, deadline=None, derandomize=True)
def test_epsilon_grows_with_steps_sample_rate_and_less_noise(rate, noise, steps):
    for accountant in ACCOUNTANTS:
        # Numerical composition has an error, so the test allows small differences.
        slack = SLACK[accountant]
        base = spent(event(rate, noise, steps), accountant=accountant)
        for worse in (event(rate, noise, 2 * steps), event(rate * 1.1, noise, steps), event(rate, noise / 1.1, steps)):
            assert spent(worse, accountant=accountant) >= base - slack


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_equal_events_compose_to_their_summed_steps(accountant):
    together = spent(event(steps=60), accountant=accountant)
    assert spent(event(steps=20), event(steps=15), event(steps=25), accountant=accountant) == pytest.approx(
        together, abs=2 * PRV_ERROR
    )


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_order_of_events_does_not_change_epsilon(accountant):
    one, other = event(0.1, 1.0, 30), event(0.3, 2.0, 20)
    forward, reverse = spent(one, other, accountant=accountant), spent(other, one, accountant=accountant)
    assert forward == pytest.approx(reverse, abs=1e-6)
    assert forward > max(spent(one, accountant=accountant), spent(other, accountant=accountant))


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_last_round_has_a_smaller_epsilon_than_all_rounds(accountant):
    last_round, all_rounds = event(0.2, 1.0, 5), event(0.2, 1.0, 20 * 5)
    assert spent(last_round, accountant=accountant) < 0.6 * spent(all_rounds, accountant=accountant)


def test_clipping_norm_does_not_change_epsilon():
    assert epsilon([MechanismEvent(0.1, 1.0, 50, 0.1)], DELTA, "rdp") == spent(event(), accountant="rdp")


def test_smaller_delta_has_larger_epsilon():
    assert spent(event(), delta=1e-7) > spent(event(), delta=1e-3)


# Edges.


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_no_steps_have_epsilon_0(accountant):
    assert spent(accountant=accountant) == 0.0
    assert spent(event(steps=0), accountant=accountant) == 0.0


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_step_without_noise_has_infinite_epsilon(accountant):
    assert spent(event(noise=0.0), accountant=accountant) == math.inf
    assert spent(event(), event(noise=0.0, steps=1), accountant=accountant) == math.inf


# Calibration.

TARGETS = [
    pytest.param(0.563, 0.1, 100, id="0.563"),
    pytest.param(1.0, 0.1, 100, id="1"),
    pytest.param(2.9, 0.25, 80, id="2.9"),
    pytest.param(10.0, 1.0, 40, id="10 at full batch"),
    pytest.param(1.0, 0.05, 1, id="1 in one step"),
]


def check_calibrated_noise(noise: float, target: float, rate: float, steps: int, accountant: str) -> None:
    stated = spent(event(rate, noise, steps), accountant=accountant)
    assert target - 0.006 <= stated <= target


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(("target", "rate", "steps"), TARGETS)
def test_calibrated_noise_meets_the_target(target, rate, steps, accountant):
    noise = calibrate(target=target, delta=DELTA, sample_rate=rate, steps=steps, accountant=accountant)
    check_calibrated_noise(noise, target, rate, steps, accountant)
    for wrong in (0.97 * noise, 1.03 * noise):
        with pytest.raises(AssertionError):
            check_calibrated_noise(wrong, target, rate, steps, accountant)


def test_calibration_by_prv_meets_the_target_exactly():
    noise = calibrate(target=3.0, delta=DELTA, sample_rate=1.0, steps=30, accountant="prv")
    assert 2.95 < exact_epsilon_of_gaussians(noise, 30, DELTA) <= 3.0


@pytest.mark.parametrize(("target", "steps"), [(0.01, 7), (1.0, 60), (20.0, 3)])
def test_calibration_by_gdp_inverts_the_closed_form(target, steps):
    noise = calibrate(target=target, delta=DELTA, sample_rate=1.0, steps=steps, accountant="gdp")
    assert target - 2e-6 <= exact_epsilon_of_gaussians(noise, steps, DELTA) <= target + 1e-9


def test_unreachable_target_is_an_error():
    with pytest.raises(UnreachableEpsilon):
        calibrate(target=1e-6, delta=1e-9, sample_rate=1.0, steps=1000, accountant="rdp")
