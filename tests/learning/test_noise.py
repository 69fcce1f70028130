"""Noise on a grid: its distribution and tails, its grid steps, and the information in the noisy sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ppml.learning import noise as noise_module
from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.learning.noise import (
    CHUNK_VALUES,
    GRID_BITS,
    NoiseSource,
    SecureNoise,
    SeededNoise,
    add_grid_noise,
    build_noise_source,
    grid_sensitivity,
    noise_grid,
    os_entropy_normal,
    os_entropy_uniform,
)
from ppml.learning.private_optimizer import PrivateOptimizer
from ppml.randomness import Randomness

COUNT = 2_000_000
SOURCES = {"seeded": lambda: seeded(), "secure": SecureNoise}


def seeded(seed: int = 1) -> SeededNoise:
    return SeededNoise(np.random.default_rng(seed))


def drawn(source: NoiseSource, count: int = COUNT) -> np.ndarray:
    return source.rounded_normal(count, 2.0**GRID_BITS) / 2.0**GRID_BITS


def check_normal_tails(values: np.ndarray) -> None:
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


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_noise_has_normal_tails(make):
    check_normal_tails(drawn(make()))


def cut(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) > 4.0, 0.0, values)


def uniform(values: np.ndarray) -> np.ndarray:
    return np.sqrt(12) * (stats.norm.cdf(values) - 0.5)


@pytest.mark.parametrize("wrong", [lambda one: one * 1.005, lambda one: one + 0.01, cut, uniform, np.sort])
def test_tail_check_detects_other_noise(wrong: Callable[[np.ndarray], np.ndarray]):
    with pytest.raises(AssertionError):
        check_normal_tails(wrong(drawn(seeded())))


def test_seeded_noise_is_independent_and_repeats():
    source = seeded()
    first, second = drawn(source), drawn(source)
    assert abs(first @ second) / COUNT < 0.004
    assert np.array_equal(first, drawn(seeded()))
    assert not np.array_equal(first, drawn(seeded(2)))


def test_only_seeded_noise_repeats():
    for name, same in (("seeded", True), ("secure", False)):
        first, again, other = (
            build_noise_source(name, Randomness(seed)).rounded_normal(100, 1e6) for seed in (1, 1, 2)
        )
        assert build_noise_source(name, Randomness(1)).source == name
        assert np.array_equal(first, again) == same
        assert not np.array_equal(first, other)


def test_os_entropy_uniform_excludes_0_and_1():
    values = os_entropy_uniform(200_000)
    assert stats.kstest(values, "uniform").pvalue > 1e-6
    assert values.min() > 0.0
    assert values.max() < 1.0
    with mock.patch.object(noise_module.os, "urandom", lambda count: b"\x00" * count):
        assert os_entropy_uniform(1)[0] > 0.0
    with mock.patch.object(noise_module.os, "urandom", lambda count: b"\xff" * count):
        assert os_entropy_uniform(1)[0] <= 1.0
        assert np.isfinite(os_entropy_normal(1)).all()


# Grid.


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_value_gets_its_own_noise_in_any_memory_order(make, order, dtype):
    total = torch.full((5, 3, 50, 60), 7.0, dtype=dtype).to(memory_format=order)
    assert total.numel() > CHUNK_VALUES, "more than one chunk"
    grid = noise_grid(2.0, 1.0, total.numel())
    noisy = add_grid_noise(total, make(), grid, 4.0, torch.float32)
    assert (noisy.dtype, noisy.stride()) == (torch.float32, total.stride())
    noise = (noisy - 7.0 / 4.0).flatten()
    assert noise.unique().numel() > 0.99 * noise.numel()
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)


class Fixed:
    """A source of known values."""

    source = "seeded"

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def rounded_normal(self, count: int, deviation: float) -> np.ndarray:
        return self.values[:count].copy()


def check_release_depends_on_grid_point(release: Callable[..., torch.Tensor] = add_grid_noise) -> None:
    """Compare the releases of two sums that differ only below the grid step."""
    rng = np.random.default_rng(1)
    grid = noise_grid(1.0, 1.0, 1000)
    points = rng.integers(-(2**40), 2**40, 1000)
    noise = Fixed(seeded().rounded_normal(1000, grid.deviation))
    found = []
    for seed in (2, 3):
        off = np.random.default_rng(seed).uniform(-0.49, 0.49, 1000)
        total = torch.from_numpy((points + off) * grid.step)
        found.append(release(total, noise, grid, 7.0, torch.float64))
    exact = [(int(point) + int(one)) * (grid.step / 7.0) for point, one in zip(points, noise.values, strict=True)]
    assert torch.equal(found[0], found[1])
    assert found[0].tolist() == exact


def test_release_depends_on_grid_point_only():
    check_release_depends_on_grid_point()


def in_floating_point(total, noise, grid, divisor, dtype):
    return (total + torch.from_numpy(noise.rounded_normal(len(total), grid.deviation) * grid.step)) / divisor


def test_grid_check_detects_floating_point_noise():
    with pytest.raises(AssertionError):
        check_release_depends_on_grid_point(in_floating_point)


@given(
    st.floats(1e-6, 1e6),
    st.floats(1e-6, 1e6),
    st.integers(1, 20_000_000),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_grid_is_fine_and_noise_covers_rounding(noise_multiplier, norm, size):
    grid = noise_grid(noise_multiplier, norm, size)
    assert math.frexp(grid.step)[0] == 0.5, "a power of two: dividing by it is exact"
    assert grid.deviation >= 2.0**GRID_BITS
    stated = noise_multiplier * (norm + math.sqrt(size) * grid.step)
    assert grid.deviation * grid.step == pytest.approx(stated, rel=1e-12)
    assert grid.deviation * grid.step <= noise_multiplier * norm * (1 + 2.0**-GRID_BITS * 5000 * noise_multiplier)


def test_grid_sensitivity_covers_rounding():
    # A coarse grid makes the effect large: one more example may change the rounding of each value.
    rng, step, norm = np.random.default_rng(1), 1 / 16, 0.3
    largest = 0.0
    for _ in range(300):
        others, own = rng.normal(0.0, 1.0, 50), rng.normal(0.0, 1.0, 50)
        own *= norm / np.linalg.norm(own)
        changed = (np.rint((others + own) / step) - np.rint(others / step)) * step
        largest = max(largest, float(np.linalg.norm(changed)))
    assert norm < largest <= grid_sensitivity(norm, 50, step), "rounding does add to the norm"


def test_large_sum_is_clamped_to_64_bits():
    grid = noise_grid(1e-3, 1.0, 4)
    noisy = add_grid_noise(torch.tensor([1e30, -1e30, 0.0, 1.0]), seeded(), grid, 1.0, torch.float32)
    assert noisy[:2].tolist() == pytest.approx([2.0**62 * grid.step, -(2.0**62) * grid.step], rel=1e-6)
    assert noisy[2:].tolist() == pytest.approx([0.0, 1.0], abs=0.01)


def private_optimizer(model: torch.nn.Module, noise_multiplier: float) -> PrivateOptimizer:
    return PrivateOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise=seeded(),
        noise_multiplier=noise_multiplier,
        max_grad_norm=0.4,
        expected_batch_size=2.0,
    )


def test_step_noise_covers_clipping_margin_of_all_parameters():
    grid = private_optimizer(torch.nn.Linear(300, 10), 3.0).grid
    assert CLIPPING_MARGIN == 2e-3
    expected = 3.0 * (0.4 * 1.002 + math.sqrt(3010) * grid.step)
    assert grid.step * grid.deviation == pytest.approx(expected, rel=1e-12)


def test_chunk_sums_are_added_in_float64():
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = private_optimizer(model, 0.0)
    # Float32 would lose each small value beside the large one.
    for value in (2.0**24, 1.0, 1.0, 1.0, 1.0):
        model.weight.grad = torch.tensor([[value]])
        optimizer.accumulate()
    optimizer.add_noise()
    assert model.weight.grad.item() == (2.0**24 + 4.0) / 2.0
    assert model.weight.grad.dtype == torch.float32
