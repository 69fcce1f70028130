from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ppml.aggregation.fixed_point import FixedPointCodec

CODEC = FixedPointCodec(clip=8.0, fractional_bits=20)
QUICK = settings(max_examples=60, deadline=None, derandomize=True)


LENGTHS = st.integers(1, 40)


def within(bound: float, shape=LENGTHS) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float64, shape, elements=st.floats(-bound, bound))


@given(values=within(8.0))
@QUICK
def test_grid_points_round_trip_exactly(values):
    grid = CODEC.encode(values)
    assert np.array_equal(CODEC.encode(CODEC.decode(grid)), grid)


@given(values=within(8.0) | within(1e300))
@QUICK
def test_decoded_value_is_within_half_step_of_clipped_value(values):
    decoded = CODEC.decode(CODEC.encode(values))
    assert np.abs(decoded).max() <= 8.0
    assert np.abs(decoded - np.clip(values, -8.0, 8.0)).max() <= CODEC.step / 2


@pytest.mark.parametrize("clients", [1, 2, 8, 32])
@given(data=st.data())
@QUICK
def test_sum_of_encoded_updates_is_within_half_step_each(clients, data):
    updates = data.draw(within(8.0, shape=(clients, 5)))
    total = CODEC.decode(np.sum([CODEC.encode(update) for update in updates], axis=0))
    # Half a step per client, plus the rounding of this test's float64 sum.
    assert np.abs(total - updates.sum(axis=0)).max() <= clients * CODEC.step / 2 + 1e-12


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_value_is_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        CODEC.encode(np.array([0.0, value]))


@pytest.mark.parametrize("clip", [0.3, 1.0, 8.0, 100.0])
@pytest.mark.parametrize("fractional_bits", [1, 12, 20, 40])
def test_bounds_are_symmetric_grid_points(clip, fractional_bits):
    codec = FixedPointCodec(clip, fractional_bits)
    low, high = codec.encode(np.array([-clip, clip]))
    assert -low == high == round(clip * 2**fractional_bits)


def test_float32_updates_are_rounded_in_float64():
    values = np.array([0.1, -1 / 3, 7.999], dtype=np.float32)
    assert np.array_equal(CODEC.encode(values), CODEC.encode(values.astype(np.float64)))


def test_empty_update_stays_empty():
    assert CODEC.encode(np.array([])).shape == (0,)
