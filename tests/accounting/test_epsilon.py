"""Epsilon against a closed form and a bracket that share no code with the accountants."""

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


@pytest.mark.parametrize("delta", [1e-5, 1e-3])
@pytest.mark.parametrize(("noise", "steps"), FULL_BATCH)
def test_prv_is_an_upper_bound_within_a_hair_of_the_exact_gaussian_epsilon(noise, steps, delta):
    exact = exact_epsilon_of_gaussians(noise, steps, delta)
    assert exact <= spent(event(1.0, noise, steps), delta=delta) <= exact + 0.03


@pytest.mark.parametrize(("noise", "steps"), FULL_BATCH)
def test_pld_is_an_upper_bound_within_its_error_of_the_exact_gaussian_epsilon(noise, steps):
    exact = exact_epsilon_of_gaussians(noise, steps, DELTA)
    assert exact <= spent(event(1.0, noise, steps), accountant="pld") <= exact + PLD_ERROR


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-3])
@pytest.mark.parametrize(("noise", "steps"), [*FULL_BATCH, (100.0, 3), (0.5, 20)])
def test_gdp_is_the_exact_gaussian_epsilon(noise, steps, delta):
    exact = exact_epsilon_of_gaussians(noise, steps, delta)
    assert spent(event(1.0, noise, steps), accountant="gdp", delta=delta) == pytest.approx(exact, abs=1e-7)


def test_gdp_composes_different_noise_exactly():
    mixed = [event(1.0, 4.0, 8), event(1.0, 8.0, 32)]
    # 8 / 16 + 32 / 64 = 1 = 4 / 4.
    assert spent(*mixed, accountant="gdp") == pytest.approx(exact_epsilon_of_gaussians(2.0, 4, DELTA), abs=1e-7)


def test_gdp_has_no_number_where_records_are_sampled():
    with pytest.raises(AccountantFailed, match=r"got sample rate 0\.5"):
        spent(event(1.0), event(0.5), accountant="gdp")


@pytest.mark.parametrize("accountant", ["prv", "pld"])
def test_what_outgrows_memory_is_not_composed(accountant):
    with pytest.raises(AccountantFailed, match="too much to compose"):
        spent(event(0.5, 0.3, 1000), accountant=accountant)
    assert spent(event(0.5, 0.3, 1000), accountant="rdp") > 100


@pytest.mark.parametrize("accountant", ["prv", "pld"])
def test_a_delta_too_small_for_numerical_composition_is_a_failure_and_no_number(accountant):
    with pytest.raises(AccountantFailed):
        spent(event(steps=10), accountant=accountant, delta=1e-16)


@pytest.mark.parametrize(("noise", "steps"), FULL_BATCH)
def test_rdp_is_the_renyi_bound_and_looser_than_exact(noise, steps):
    stated = spent(event(1.0, noise, steps), accountant="rdp")
    assert stated == pytest.approx(renyi_epsilon_of_gaussians(noise, steps, DELTA), rel=0.01)
    assert stated >= exact_epsilon_of_gaussians(noise, steps, DELTA)


SUBSAMPLED = [(0.1, 1.0, 1), (0.1, 1.0, 100), (0.5, 1.0, 2), (0.25, 4.0, 200), (0.064, 1.17, 100)]


def check_epsilon_is_an_upper_bound(rate: float, noise: float, steps: int, stated: float) -> None:
    lower, upper = epsilon_bracket(rate, noise, steps, DELTA)
    assert lower <= stated <= upper + 2 * PRV_ERROR


@pytest.mark.parametrize(("rate", "noise", "steps"), SUBSAMPLED)
def test_prv_is_an_upper_bound_of_the_subsampled_mechanism_in_both_directions(rate, noise, steps):
    check_epsilon_is_an_upper_bound(rate, noise, steps, spent(event(rate, noise, steps)))


@pytest.mark.parametrize(("rate", "noise", "steps"), [*SUBSAMPLED, (0.0064, 1.0, 780)])
def test_pld_is_an_upper_bound_within_its_error_and_within_a_twentieth_of_prv(rate, noise, steps):
    lower, upper = epsilon_bracket(rate, noise, steps, DELTA)
    stated = spent(event(rate, noise, steps), accountant="pld")
    assert lower <= stated <= upper + PLD_ERROR
    assert abs(stated - spent(event(rate, noise, steps))) < 0.05


@pytest.mark.parametrize(("rate", "noise", "steps"), SUBSAMPLED)
def test_an_epsilon_for_a_tenth_more_noise_or_of_a_step_less_is_caught(rate, noise, steps):
    for wrong in (event(rate, noise * 1.1, steps), event(rate, noise, steps - max(1, steps // 10))):
        with pytest.raises(AssertionError):
            check_epsilon_is_an_upper_bound(rate, noise, steps, spent(wrong))


@pytest.mark.parametrize(("rate", "noise", "steps"), SUBSAMPLED)
def test_rdp_is_looser_than_prv(rate, noise, steps):
    assert spent(event(rate, noise, steps), accountant="rdp") > spent(event(rate, noise, steps))


# Monotone, and composed.


@given(rate=st.floats(0.01, 0.9), noise=st.floats(1.0, 8.0), steps=st.integers(1, 100))
@settings(max_examples=3, deadline=None, derandomize=True)
def test_more_steps_more_data_a_step_and_less_noise_spend_more(rate, noise, steps):
    for accountant in ACCOUNTANTS:
        # Numerical composition has an error, so that only clear differences must show.
        slack = SLACK[accountant]
        base = spent(event(rate, noise, steps), accountant=accountant)
        for worse in (event(rate, noise, 2 * steps), event(rate * 1.1, noise, steps), event(rate, noise / 1.1, steps)):
            assert spent(worse, accountant=accountant) >= base - slack


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_events_compose_to_their_summed_steps(accountant):
    together = spent(event(steps=60), accountant=accountant)
    assert spent(event(steps=20), event(steps=15), event(steps=25), accountant=accountant) == pytest.approx(
        together, abs=2 * PRV_ERROR
    )


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_the_order_of_different_events_does_not_matter(accountant):
    one, other = event(0.1, 1.0, 30), event(0.3, 2.0, 20)
    there, back = spent(one, other, accountant=accountant), spent(other, one, accountant=accountant)
    assert there == pytest.approx(back, abs=1e-6)
    assert there > max(spent(one, accountant=accountant), spent(other, accountant=accountant))


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_an_account_that_starts_anew_each_round_would_show_less(accountant):
    last_round, all_rounds = event(0.2, 1.0, 5), event(0.2, 1.0, 20 * 5)
    assert spent(last_round, accountant=accountant) < 0.6 * spent(all_rounds, accountant=accountant)


def test_the_clipping_norm_does_not_matter():
    assert epsilon([MechanismEvent(0.1, 1.0, 50, 0.1)], DELTA, "rdp") == spent(event(), accountant="rdp")


def test_a_smaller_delta_costs_more():
    assert spent(event(), delta=1e-7) > spent(event(), delta=1e-3)


# Edges.


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_nothing_that_ran_spends_nothing(accountant):
    assert spent(accountant=accountant) == 0.0
    assert spent(event(steps=0), accountant=accountant) == 0.0


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_a_single_step_without_noise_is_no_privacy_at_all(accountant):
    assert spent(event(noise=0.0), accountant=accountant) == math.inf
    assert spent(event(), event(noise=0.0, steps=1), accountant=accountant) == math.inf


@pytest.mark.parametrize("sampler", ["shuffle", "fixed", ""])
def test_amplification_is_refused_for_another_sampler(sampler):
    with pytest.raises(ValueError, match="allowed: 'poisson'"):
        spent(event(), event(sampler=sampler))


def test_a_foreign_sampler_is_refused_even_without_steps():
    with pytest.raises(ValueError, match="shuffle"):
        spent(event(steps=0, sampler="shuffle"))


# Calibration.

TARGETS = [
    pytest.param(0.563, 0.1, 100, id="0.563"),
    pytest.param(1.0, 0.1, 100, id="1"),
    pytest.param(2.9, 0.25, 80, id="2.9"),
    pytest.param(10.0, 1.0, 40, id="10 at full batch"),
    pytest.param(1.0, 0.05, 1, id="1 in one step"),
]


def check_noise_spends_the_target(noise: float, target: float, rate: float, steps: int, accountant: str) -> None:
    stated = spent(event(rate, noise, steps), accountant=accountant)
    assert target - 0.006 <= stated <= target


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(("target", "rate", "steps"), TARGETS)
def test_calibrated_noise_spends_at_most_the_target_and_hardly_less(target, rate, steps, accountant):
    noise = calibrate(target=target, delta=DELTA, sample_rate=rate, steps=steps, accountant=accountant)
    check_noise_spends_the_target(noise, target, rate, steps, accountant)
    for wrong in (0.97 * noise, 1.03 * noise):
        with pytest.raises(AssertionError):
            check_noise_spends_the_target(wrong, target, rate, steps, accountant)


def test_calibrated_noise_keeps_the_target_by_the_exact_epsilon_too():
    noise = calibrate(target=3.0, delta=DELTA, sample_rate=1.0, steps=30, accountant="prv")
    assert 2.95 < exact_epsilon_of_gaussians(noise, 30, DELTA) <= 3.0


@pytest.mark.parametrize(("target", "steps"), [(0.01, 7), (1.0, 60), (20.0, 3)])
def test_noise_by_gdp_is_that_of_the_closed_form(target, steps):
    noise = calibrate(target=target, delta=DELTA, sample_rate=1.0, steps=steps, accountant="gdp")
    assert target - 2e-6 <= exact_epsilon_of_gaussians(noise, steps, DELTA) <= target + 1e-9


def test_a_target_that_no_noise_reaches_is_an_error():
    with pytest.raises(UnreachableEpsilon):
        calibrate(target=1e-6, delta=1e-9, sample_rate=1.0, steps=1000, accountant="rdp")
