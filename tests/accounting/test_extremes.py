"""Every combination of accountant, delta, epsilon, steps and rate ends in a number or in one error, soon."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from pydantic import ValidationError

from ppml.accounting import calibration
from ppml.accounting import gdp as gaussian
from ppml.accounting import rdp as renyi
from ppml.accounting.calibration import UnreachableEpsilon, calibrate
from ppml.accounting.cross_check import by_every_accountant, stated
from ppml.accounting.events import MechanismEvent
from ppml.accounting.limits import LEAST_NOISE, MOST_NOISE
from ppml.config.technique import ClientLevel, ExampleLevel

ACCOUNTANTS = ["tightest", "prv", "rdp", "pld", "gdp"]


def event(rate: float, noise: float, steps: int) -> MechanismEvent:
    return MechanismEvent(rate, noise, steps, 1.0)


# Nothing is below 0.

NOTHING_SPENT = [(10, 1.0, 1, 0.2), (10, 0.1, 50, 0.3), (100, 1.0, 1, 0.1), (100, 0.01, 100, 0.01), (1e6, 1.0, 1, 0.5)]


def check_no_accountant_is_below_0(noise: float, rate: float, steps: int, delta: float) -> None:
    for name, value in by_every_accountant([event(rate, noise, steps)], delta).items():
        assert value is None or value >= 0, name


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), NOTHING_SPENT)
def test_no_accountant_states_less_than_0(noise, rate, steps, delta):
    check_no_accountant_is_below_0(noise, rate, steps, delta)
    assert stated([event(rate, noise, steps)], delta, "tightest")[0] == 0.0


def test_a_renyi_bound_without_a_floor_is_caught(monkeypatch):
    def without_floor(orders, spent, log_delta):
        found = spent + np.log1p(-1 / orders) - (log_delta + np.log(orders)) / (orders - 1)
        return float(found.min())

    monkeypatch.setattr(renyi, "converted", without_floor)
    found = renyi.epsilons([(10.0, 1.0)], [[1]], 0.2)
    assert found == pytest.approx([-0.199], abs=1e-3)
    # Such a number is no epsilon: it is refused, and never stated.
    with pytest.raises(ArithmeticError):
        check_no_accountant_is_below_0(10.0, 1.0, 1, 0.2)
        stated([event(1.0, 10.0, 1)], 0.2, "rdp")


@pytest.mark.parametrize("noise", [1e-300, 1e-160, 1e-20, 1e-3, 1e3, 1e160, 1e300])
@pytest.mark.parametrize("delta", [1e-300, 1e-13, 0.3, 0.999999])
def test_any_noise_and_any_delta_have_a_number_in_closed_form(noise, delta):
    for rate in (1.0, 0.1):
        value, name = stated([event(rate, noise, 3)], delta, "gdp" if rate == 1 else "rdp")
        assert value >= 0 and name == ("gdp" if rate == 1 else "rdp")
    assert stated([event(1.0, noise, 3)], delta, "rdp")[0] >= stated([event(1.0, noise, 3)], delta, "gdp")[0]


def test_a_delta_that_drowns_in_rounding_is_stated_by_renyi():
    events = [event(0.1, 1.0, 50)]
    assert stated(events, 9e-12, "tightest") == (stated(events, 9e-12, "rdp")[0], "rdp")
    assert stated(events, 1.1e-11, "tightest")[1] == "pld"


def test_renyi_moments_are_those_of_opacus():
    from opacus.accountants.analysis import rdp

    for rate, noise in ((0.1, 1.0), (0.0256, 0.571), (0.9, 0.3), (0.3, 40.0)):
        orders = [1.1, 1.5, 2, 2.3, 5.7, 8, 10.9, 60]
        theirs = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders)
        _, (ours,) = renyi.costs([(noise, rate)], [[1]], orders)
        assert ours == pytest.approx(theirs, abs=1e-11)


# Calibration.

GRID = [
    *itertools.product(["gdp"], [1e-15, 1e-5, 0.02, 0.1, 0.3], [1e-3, 0.1, 10.0, 1000.0], [1, 10_000], [1.0]),
    *itertools.product(["rdp"], [1e-13, 1e-5, 0.3], [1e-3, 1.0, 1000.0], [1, 10_000], [1.0, 0.1]),
    *itertools.product(["tightest"], [1e-13, 1e-5, 0.02], [0.01, 1.0, 1000.0], [10], [0.1]),
    *itertools.product(["prv", "pld"], [1e-5, 0.02], [0.01, 1.0], [10], [1.0]),
]


def check_noise_is_the_least(accountant: str, delta: float, target: float, steps: int, rate: float) -> None:
    try:
        noise = calibrate(target=target, delta=delta, sample_rate=rate, steps=steps, accountant=accountant)
    except UnreachableEpsilon as error:
        assert error.smallest == stated([event(rate, MOST_NOISE, steps)], delta, accountant)[0] > target
        return
    assert LEAST_NOISE <= noise <= MOST_NOISE
    assert stated([event(rate, noise, steps)], delta, accountant)[0] <= target
    less = stated([event(rate, 0.97 * noise, steps)], delta, accountant)[0]
    assert noise == LEAST_NOISE or less > target - 2 * calibration.TOLERANCE


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_calibration_ends_in_noise_or_in_one_error(accountant):
    for given in GRID:
        if given[0] == accountant:
            check_noise_is_the_least(*given)


def test_a_search_that_divides_by_an_epsilon_of_0_is_caught(monkeypatch):
    def by_ratio(low, high, above, below, aim, *, bisect):
        share = math.log(above / aim) / math.log(above / below)
        return low * math.exp(share * math.log(high / low))

    monkeypatch.setattr(calibration, "_between", by_ratio)
    with pytest.raises((ArithmeticError, ValueError)):
        check_noise_is_the_least("rdp", 0.3, 1e-3, 1, 1.0)


def test_the_largest_mu_is_the_inverse_of_the_exact_epsilon():
    for target, delta in ((1e-3, 0.3), (0.02, 0.01), (1.0, 1e-5), (1000.0, 1e-13)):
        mu = gaussian.largest_mu(target, delta)
        assert gaussian.exact_epsilon(mu, delta) <= target < gaussian.exact_epsilon(1.0001 * mu, delta)


# The schema.


@pytest.mark.parametrize("level", [ExampleLevel, ClientLevel])
@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("noise_multiplier", 1e-160, "greater than or equal to 0.001"),
        ("noise_multiplier", 1e200, "less than or equal to 1000000"),
        ("delta", 1e-300, r"greater than or equal to 0\.0{14}1"),
        ("delta", 0.999999, "less than or equal to 0.5"),
    ],
)
def test_what_no_accountant_can_state_is_refused_with_what_is_allowed(level, key, value, allowed):
    with pytest.raises(ValidationError, match=allowed):
        level.model_validate({"noise_multiplier": 1.0, key: value})
