"""Noise that is added in place: its distribution, as far out as it goes, and where it lands."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from ppml.learning.noise import VALUES_AT_ONCE, NoiseSource, SecureNoise, SeededNoise

COUNT = 2_000_000


def seeded(seed: int = 1) -> SeededNoise:
    return SeededNoise(torch.Generator().manual_seed(seed))


def added(source: NoiseSource, count: int = COUNT) -> np.ndarray:
    total = torch.zeros(count)
    source.add(total, 3.0, 6.0)
    return total.double().numpy() * 2.0


def check_standard_normal_far_out(values: np.ndarray) -> None:
    # Two million values; each bound is at least five standard errors wide.
    assert abs(values.mean()) < 0.004
    assert values.std() == pytest.approx(1.0, rel=0.003)
    assert abs(stats.skew(values)) < 0.01
    assert abs(stats.kurtosis(values)) < 0.02
    assert stats.kstest(values[:200_000], "norm").pvalue > 1e-6
    for beyond in (2.0, 3.0, 4.0, 4.5):
        for side in (values > beyond, values < -beyond):
            expected = COUNT * stats.norm.sf(beyond)
            assert side.sum() == pytest.approx(expected, abs=5 * math.sqrt(expected) + 1)
    assert (np.abs(values) > 4.5).sum() > 1, "13.6 are expected"
    assert abs(values[1:] @ values[:-1]) / COUNT < 0.004


def test_seeded_noise_is_standard_normal_far_out():
    check_standard_normal_far_out(added(seeded()))


def cut(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) > 4.0, 0.0, values)


@pytest.mark.parametrize("wrong", [lambda one: one * 1.005, lambda one: one + 0.01, cut, np.sort])
def test_noise_that_is_not_normal_far_out_is_caught(wrong: Callable[[np.ndarray], np.ndarray]):
    with pytest.raises(AssertionError):
        check_standard_normal_far_out(wrong(added(seeded())))


def test_the_noise_of_two_steps_is_independent_and_repeats_from_the_seed():
    source = seeded()
    first, second = added(source), added(source)
    assert abs(first @ second) / COUNT < 0.004
    assert np.array_equal(first, added(seeded()))
    assert not np.array_equal(first, added(seeded(2)))


@pytest.mark.parametrize("make", [seeded, SecureNoise], ids=["seeded", "secure"])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_every_value_gets_noise_of_its_own_whatever_its_order_in_memory(make, order):
    total = torch.full((5, 3, 50, 60), 7.0).to(memory_format=order)
    assert total.numel() > VALUES_AT_ONCE, "more than one piece"
    make().add(total, 2.0, 4.0)
    noise = (total - 7.0 / 4.0).flatten()
    assert noise.unique().numel() > 0.99 * noise.numel()
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)


def test_noise_of_deviation_0_only_divides():
    total = torch.arange(10.0)
    seeded().add(total, 0.0, 2.0)
    assert torch.equal(total, torch.arange(10.0) / 2)
