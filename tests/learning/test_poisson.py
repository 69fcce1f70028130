"""Poisson sampling: independent coins at the stated rate, each a function of its example only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ppml.data.examples import Examples
from ppml.example_draws import example_digests
from ppml.learning import dpsgd, poisson
from ppml.learning.poisson import (
    NO_SAMPLES,
    STEPS_PER_BLOCK,
    PoissonSampler,
    Sampling,
    SecureSampler,
    SeededSampler,
    build_sampler,
    describe_sampling,
)
from ppml.randomness import Randomness

from ..federation.sum_noise import by_example, distributed_gaussian
from .digits import with_duplicates

RATE = 0.3


def equal(count: int) -> Examples:
    return Examples(torch.zeros(count, 1, 2, 2), torch.zeros(count, dtype=torch.int64))


def drawn(sampler: PoissonSampler) -> np.ndarray:
    """Return the membership of each example in each sample, shape ``(steps, count)``."""
    return np.stack([np.bincount(sample.numpy(), minlength=sampler.count) for sample in sampler])


# Coins.


def check_coins_are_independent(source: str) -> None:
    """Check the coins of 200 equal examples; a hash of the example only would give all of them the same coin."""
    entered = drawn(build_sampler(equal(200), RATE, 400, source, Randomness(1)))
    assert entered.shape == (400, 200) and set(np.unique(entered)) == {0, 1}
    deviation = np.sqrt(RATE * (1 - RATE))
    # 80,000 coins: five standard errors.
    assert entered.mean() == pytest.approx(RATE, abs=5 * deviation / 80_000**0.5)
    for axis, each in ((0, 400), (1, 200)):
        assert np.abs(entered.mean(axis=axis) - RATE).max() < 5.5 * deviation / each**0.5
    # Variance of the number of examples in a step, and of the number of steps of an example.
    for axis, each in ((1, 200), (0, 400)):
        assert entered.sum(axis=axis).var() == pytest.approx(each * RATE * (1 - RATE), rel=0.5)
    centred = entered - RATE
    together = np.abs(np.corrcoef(entered.T)[np.triu_indices(200, 1)]).max()
    assert together < 6 / 400**0.5
    for lag in (1, STEPS_PER_BLOCK):
        following = (centred[lag:] * centred[:-lag]).mean() / deviation**2
        assert abs(following) < 5 / (200 * (400 - lag)) ** 0.5


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_equal_examples_have_independent_coins(source):
    check_coins_are_independent(source)


FAULTS: dict[str, tuple[str, object]] = {
    "equal examples have equal coins": ("unique_names", lambda digests: [digest + bytes(8) for digest in digests]),
    "the same coins in every block": ("SeededSampler._hash_block", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_coin_check_detects_dependent_coins(fault, monkeypatch):
    name, other = FAULTS[fault]
    if other is None:
        hashed = SeededSampler._hash_block
        monkeypatch.setattr(SeededSampler, "_hash_block", lambda self, block: hashed(self, 0))
    else:
        monkeypatch.setattr(poisson, name, other)
    with pytest.raises(AssertionError):
        check_coins_are_independent("seeded")


def test_coins_are_uniform_over_64_bits():
    sampler = SeededSampler(equal(2000), RATE, 1, Randomness(3))
    coins = np.concatenate([sampler._coins() for _ in range(STEPS_PER_BLOCK + 1)])
    assert len(np.unique(coins)) == len(coins)
    assert stats.kstest(coins / 2.0**64, "uniform").pvalue > 1e-6
    bits = np.unpackbits(coins.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 5.5 * 0.5 / len(coins) ** 0.5


@pytest.mark.parametrize(("rate", "below"), [(0.25, 2**62), (2.0**-40, 2**24), (1.0 - 2.0**-53, 2**64 - 2**11)])
def test_example_is_sampled_if_coin_is_below_rate(rate, below):
    class Known(SecureSampler):
        def _coins(self):
            return np.array([0, below - 1, below, 2**64 - 1], dtype=np.uint64)

    assert [sample.tolist() for sample in Known(4, rate, 1)] == [[0, 1]]


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_rate_1_takes_every_example_without_draws(source):
    sampler = build_sampler(equal(4), 1.0, 2, source, Randomness(1))
    with mock.patch.object(os, "urandom", side_effect=AssertionError):
        assert [sample.tolist() for sample in sampler] == [[0, 1, 2, 3]] * 2
    assert describe_sampling(sampler) == NO_SAMPLES


def test_seeded_coins_depend_on_seed_and_step():
    def by(seed: int, steps: int) -> np.ndarray:
        return drawn(SeededSampler(equal(50), RATE, steps, Randomness(seed)))

    assert np.array_equal(by(1, 40), by(1, 40)) and not np.array_equal(by(1, 40), by(2, 40))
    assert len(np.unique(by(1, 40), axis=0)) == 40


def test_next_epoch_continues_the_coins():
    sampler = SeededSampler(equal(50), RATE, 20, Randomness(1))
    epochs = np.concatenate([drawn(sampler), drawn(sampler)])
    assert np.array_equal(epochs, drawn(SeededSampler(equal(50), RATE, 40, Randomness(1))))


# Assignment of coins to examples.

Sample = Callable[[Examples], PoissonSampler]


def centralized(examples: Examples) -> PoissonSampler:
    learner = dpsgd.DpSgdLearner(None, noise_multiplier=1.0, max_grad_norm=1.0)
    return learner._sampler(examples, RATE, 40, Randomness(1))


def federated(examples: Examples) -> PoissonSampler:
    sampler = by_example(distributed_gaussian(1.0, 3), rate=RATE)._sampler(examples, Randomness(1))
    # A client samples one round at a time.
    sampler.steps = 40
    return sampler


def coins(examples: Examples, sample: Sample) -> Counter[tuple[bytes, bytes]]:
    """Return the number of examples of each kind in each set of steps."""
    entered = drawn(sample(examples)).T if len(examples) else []
    kinds = example_digests(examples.inputs, examples.labels)
    return Counter((kind, row.tobytes()) for kind, row in zip(kinds, entered, strict=True))


def check_coins_belong_to_example(examples: Examples, place: int, sample: Sample) -> None:
    """Remove the example at ``place`` and change the order: every other example must keep its coins."""
    others = torch.tensor([other for other in range(len(examples)) if other != place], dtype=torch.int64)
    whole, without = coins(examples, sample), coins(examples.select(others), sample)
    assert not without - whole
    gone = whole - without
    assert [kind for kind, _ in gone.elements()] == [example_digests(examples.inputs, examples.labels)[place]]
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(place))
    assert coins(examples.select(order), sample) == whole


@pytest.mark.parametrize("sample", [centralized, federated])
@pytest.mark.parametrize("count", [1, 2, 37, 1000])
def test_example_keeps_its_coins_if_another_is_removed(count, sample):
    for place in {0, count // 2, count - 1}:
        check_coins_belong_to_example(with_duplicates(count), place, sample)


@given(kinds=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=12), data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_example_keeps_its_coins_among_equal_examples(kinds, data):
    values, labels = torch.tensor(kinds).unbind(dim=1)
    examples = Examples(values[:, None, None, None].float(), labels)
    check_coins_belong_to_example(examples, data.draw(st.integers(0, len(kinds) - 1)), centralized)


class ByPosition(SeededSampler):
    """Draws the coins in the order of the examples from one generator."""

    def __init__(self, examples, rate, steps, rng):
        super().__init__(examples, rate, steps, rng)
        self._generator = rng.torch()

    def _coins(self):
        return (torch.rand(self.count, generator=self._generator).double().numpy() * 2.0**64).astype(np.uint64)


class BlockSizeByNumberOfExamples(SeededSampler):
    """Chooses the number of steps per hash by memory."""

    def _hash_block(self, block):
        return super()._hash_block(block * 1000 + self.count)


class WithoutLabels(SeededSampler):
    """Ignores labels in the comparison of examples."""

    def __init__(self, examples, rate, steps, rng):
        super().__init__(examples, rate, steps, rng)
        self._names = poisson.unique_names(example_digests(examples.inputs))


class WithPositions(SeededSampler):
    """Distinguishes equal examples by position."""

    def __init__(self, examples, rate, steps, rng):
        super().__init__(examples, rate, steps, rng)
        self._names = [digest + place.to_bytes(8, "little") for place, digest in enumerate(examples.digests)]


@pytest.mark.parametrize("fault", [ByPosition, BlockSizeByNumberOfExamples, WithoutLabels, WithPositions])
def test_coin_check_detects_planted_faults(fault):
    with pytest.raises(AssertionError):
        check_coins_belong_to_example(with_duplicates(37), 0, lambda examples: fault(examples, RATE, 40, Randomness(1)))


# Stated sampling.


def test_unknown_sampler_claims_no_amplification():
    seeded, secure = (build_sampler(equal(4), 0.25, 1, source, Randomness(1)) for source in ("seeded", "secure"))
    assert describe_sampling(seeded) == Sampling("poisson", 0.25, "seeded")
    assert describe_sampling(secure) == Sampling("poisson", 0.25, "secure")
    assert (describe_sampling(secure).source_or("seeded"), NO_SAMPLES.source_or("secure")) == ("secure", "secure")
    assert describe_sampling([torch.arange(2)]) == Sampling("list", 1.0, "seeded")
    # A subclass may change the sampling.
    assert describe_sampling(ByPosition(equal(4), 0.25, 1, Randomness(1))) == Sampling("ByPosition", 1.0, "seeded")
