"""Extreme values of delta, epsilon, steps and rate have an epsilon, or one error, by every accountant."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from pydantic import ValidationError

from ppml.accounting import calibration, gdp, rdp
from ppml.accounting.calibration import UnreachableEpsilon, calibrate
from ppml.accounting.cross_check import epsilons_by_accountant, stated_epsilon
from ppml.accounting.events import MechanismEvent
from ppml.config.privacy_limits import MAX_NOISE, MIN_NOISE
from ppml.config.technique import ClientLevel, ExampleLevel

ACCOUNTANTS = ["tightest", "prv", "rdp", "pld", "gdp"]


def event(rate: float, noise: float, steps: int) -> MechanismEvent:
    return MechanismEvent(rate, noise, steps, 1.0)


# Lower limit 0.

NOTHING_SPENT = [(10, 1.0, 1, 0.2), (10, 0.1, 50, 0.3), (100, 1.0, 1, 0.1), (100, 0.01, 100, 0.01), (1e6, 1.0, 1, 0.5)]


def check_not_below_0(noise: float, rate: float, steps: int, delta: float) -> None:
    for name, value in epsilons_by_accountant([event(rate, noise, steps)], delta).items():
        assert value is None or value >= 0, name


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), NOTHING_SPENT)
def test_no_epsilon_is_below_0(noise, rate, steps, delta):
    check_not_below_0(noise, rate, steps, delta)
    assert stated_epsilon([event(rate, noise, steps)], delta, "tightest")[0] == 0.0


def test_check_detects_a_negative_renyi_bound(monkeypatch):
    def without_floor(orders, spent, log_delta):
        found = spent + np.log1p(-1 / orders) - (log_delta + np.log(orders)) / (orders - 1)
        return float(found.min())

    monkeypatch.setattr(rdp, "rdp_to_epsilon", without_floor)
    found = rdp.epsilons([(10.0, 1.0)], [[1]], 0.2)
    assert found == pytest.approx([-0.199], abs=1e-3)
    # The accountants refuse such an epsilon.
    with pytest.raises(ArithmeticError):
        check_not_below_0(10.0, 1.0, 1, 0.2)
        stated_epsilon([event(1.0, 10.0, 1)], 0.2, "rdp")


@pytest.mark.parametrize("noise", [1e-300, 1e-160, 1e-20, 1e-3, 1e3, 1e160, 1e300])
@pytest.mark.parametrize("delta", [1e-300, 1e-13, 0.3, 0.999999])
def test_extreme_noise_and_delta_have_an_epsilon(noise, delta):
    for rate in (1.0, 0.1):
        value, name = stated_epsilon([event(rate, noise, 3)], delta, "gdp" if rate == 1 else "rdp")
        assert value >= 0 and name == ("gdp" if rate == 1 else "rdp")
    assert (
        stated_epsilon([event(1.0, noise, 3)], delta, "rdp")[0]
        >= stated_epsilon([event(1.0, noise, 3)], delta, "gdp")[0]
    )


def test_small_deltas_are_stated_by_rdp():
    events = [event(0.1, 1.0, 50)]
    assert stated_epsilon(events, 9e-12, "tightest") == (stated_epsilon(events, 9e-12, "rdp")[0], "rdp")
    assert stated_epsilon(events, 1.1e-11, "tightest")[1] == "pld"


def test_rdp_curves_match_opacus():
    from opacus.accountants.analysis.rdp import compute_rdp

    for rate, noise in ((0.1, 1.0), (0.0256, 0.571), (0.9, 0.3), (0.3, 40.0)):
        orders = [1.1, 1.5, 2, 2.3, 5.7, 8, 10.9, 60]
        expected = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders)
        _, (curve,) = rdp.rdp_curves([(noise, rate)], [[1]], orders)
        assert curve == pytest.approx(expected, abs=1e-11)


# Calibration.

GRID = [
    *itertools.product(["gdp"], [1e-15, 1e-5, 0.02, 0.1, 0.3], [1e-3, 0.1, 10.0, 1000.0], [1, 10_000], [1.0]),
    *itertools.product(["rdp"], [1e-13, 1e-5, 0.3], [1e-3, 1.0, 1000.0], [1, 10_000], [1.0, 0.1]),
    *itertools.product(["tightest"], [1e-13, 1e-5, 0.02], [0.01, 1.0, 1000.0], [10], [0.1]),
    *itertools.product(["prv", "pld"], [1e-5, 0.02], [0.01, 1.0], [10], [1.0]),
]


def check_least_noise(accountant: str, delta: float, target: float, steps: int, rate: float) -> None:
    try:
        noise = calibrate(target=target, delta=delta, sample_rate=rate, steps=steps, accountant=accountant)
    except UnreachableEpsilon as error:
        assert error.smallest == stated_epsilon([event(rate, MAX_NOISE, steps)], delta, accountant)[0] > target
        return
    assert MIN_NOISE <= noise <= MAX_NOISE
    assert stated_epsilon([event(rate, noise, steps)], delta, accountant)[0] <= target
    less = stated_epsilon([event(rate, 0.97 * noise, steps)], delta, accountant)[0]
    assert noise == MIN_NOISE or less > target - 2 * calibration.TOLERANCE


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_calibration_returns_noise_or_raises_one_error(accountant):
    for given in GRID:
        if given[0] == accountant:
            check_least_noise(*given)


def test_check_detects_a_division_by_epsilon_0(monkeypatch):
    def by_ratio(low, high, above, below, aim, *, bisect):
        fraction = math.log(above / aim) / math.log(above / below)
        return low * math.exp(fraction * math.log(high / low))

    monkeypatch.setattr(calibration, "_interpolate", by_ratio)
    with pytest.raises((ArithmeticError, ValueError)):
        check_least_noise("rdp", 0.3, 1e-3, 1, 1.0)


def test_largest_mu_inverts_exact_epsilon():
    for target, delta in ((1e-3, 0.3), (0.02, 0.01), (1.0, 1e-5), (1000.0, 1e-13)):
        mu = gdp.largest_mu(target, delta)
        assert gdp.exact_epsilon(mu, delta) <= target < gdp.exact_epsilon(1.0001 * mu, delta)


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
def test_configuration_refuses_extreme_values(level, key, value, allowed):
    with pytest.raises(ValidationError, match=allowed):
        level.model_validate({"noise_multiplier": 1.0, key: value})
