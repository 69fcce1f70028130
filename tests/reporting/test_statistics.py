import math

import numpy as np
import pytest
from scipy import stats

from ppml.reporting.statistics import difference, estimate, wilson_interval


def test_interval_over_seeds_equals_scipy():
    values = [0.971, 0.975, 0.969, 0.974]
    result = estimate(values, trials=2000)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (result.low, result.high) == pytest.approx(expected)
    assert result.mean == pytest.approx(np.mean(values))
    assert result.deviation == pytest.approx(np.std(values, ddof=1))
    assert (result.n, result.kind) == (4, "t")


def test_single_fraction_has_wilson_interval_of_scipy():
    result = estimate([0.95], trials=2000)
    expected = stats.binomtest(1900, 2000).proportion_ci(0.95, method="wilson")
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.kind == "wilson"
    assert math.isnan(result.deviation)


def test_single_value_has_no_interval():
    result = estimate([12.5])
    assert result.kind == "none"
    assert math.isnan(result.low) and math.isnan(result.high)


def test_interval_of_fraction_stays_in_range():
    assert estimate([0.99, 0.999, 0.95], trials=2000).high == 1.0
    assert estimate([10.0, 12.0, 40.0]).low < 0
    assert wilson_interval(1.0, 100)[1] == 1.0


def test_two_seeds_have_their_range_and_no_interval():
    result = estimate([0.94, 0.96], trials=2000)
    assert (result.low, result.mean, result.high, result.kind) == (0.94, pytest.approx(0.95), 0.96, "range")


def test_difference_of_two_seeds_keeps_the_interval():
    found = difference([0.94, 0.96], [0.90, 0.91], trials=2000)
    expected = stats.t.interval(0.95, 1, loc=0.045, scale=stats.sem([0.04, 0.05]))
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[], [0.9, math.nan]])
def test_no_or_missing_values_are_refused(values):
    with pytest.raises(ValueError, match="at least one value, all finite"):
        estimate(values)
