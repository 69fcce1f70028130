"""Noise in the sum alone: how much there is, of whom it is, and that it is the Gaussian mechanism."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from scipy import stats

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.errors import UserError
from ppml.federation.algorithms import FederatedAlgorithm, ClientData
from ppml.federation.distributed_dp import (
    MIN_SIGMA,
    TAIL,
    DistributedGaussian,
    rounded_gaussian,
)
from ppml.learning import noise as noise_module
from ppml.learning.poisson import Sampling
from ppml.randomness import Randomness

from ..learning.digits import Silent, blank
from .sharing import (
    IDLE,
    STEP,
    VALUES,
    Changed,
    Plant,
    by_client,
    by_example,
    contributions,
    honest,
    sensitivity,
    shares,
    turn,
)

# Arithmetic.


@pytest.mark.parametrize(("clients", "colluders", "dropouts"), [(2, 1, 0), (8, 1, 0), (10, 3, 2), (50, 1, 10)])
@pytest.mark.parametrize("noise", [0.5, 1.0, 7.3])
def test_the_shares_that_count_add_up_to_the_stated_noise(clients, colluders, dropouts, noise):
    one = shares(noise, clients, colluders, dropouts, codec=FixedPointCodec(1e4, 20))
    counted = clients - colluders - dropouts
    assert one.counted == counted
    assert one.sensitivity == pytest.approx(sensitivity(0.1, VALUES), rel=1e-15)
    assert math.sqrt(counted) * one.deviation * STEP == pytest.approx(noise * sensitivity(0.1, VALUES), rel=1e-12)
    event = one.event(Sampling("poisson", 0.25, "seeded"), "secure")
    assert (event.noise_source, event.sampling_source) == ("secure", "seeded")
    assert (event.sample_rate, event.steps, event.max_grad_norm, event.sampler) == (0.25, 1, 0.1, "poisson")
    assert event.noise_multiplier == pytest.approx(noise, rel=1e-12)


def test_the_sensitivity_covers_what_rounding_adds():
    # Whole numbers of steps and a half: each value may be rounded the other way when one record is added.
    codec, rng = FixedPointCodec(1e4, 4), np.random.default_rng(1)
    one = shares(10.0, size=50, norm=0.3, codec=codec)
    largest = 0.0
    for _ in range(300):
        others, own = rng.normal(0.0, 1.0, 50), rng.normal(0.0, 1.0, 50)
        own *= 0.3 / np.linalg.norm(own)
        changed = codec.decode(codec.encode(others + own) - codec.encode(others))
        largest = max(largest, float(np.linalg.norm(changed)))
    assert 0.3 < largest <= one.sensitivity, "rounding does add to the norm"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"clients": 3, "colluders": 2, "dropouts": 1},
            r"^privacy: 3 clients, of whom 2 may collude and 1 drop out: no share of the noise is left; lower ",
        ),
        ({"clients": 1}, r"^privacy: 1 clients, of whom 1 may collude and 0 drop out: no share of the noise is left"),
        (
            {"codec": FixedPointCodec(8.0, 4), "norm": 1e-9, "noise": 1e-3},
            r"^aggregation\.fractional_bits: got 4; a share of the noise has a deviation of 0\.162 steps of the grid, "
            r"at least 16 are needed; raise it$",
        ),
        (
            {"codec": FixedPointCodec(1.0, 20)},
            r"^aggregation\.clip: got 1; a share of the noise needs 0\.696 of it, and at most half is allowed; raise "
            r"clip to 1\.39 or more$",
        ),
    ],
)
def test_noise_that_cannot_be_shared_is_refused_with_what_to_change(given, message):
    with pytest.raises(UserError, match=message):
        shares(**given)


def test_a_share_of_the_least_deviation_and_a_clip_of_twice_the_margin_are_allowed():
    # Norm and rounding come to three steps, and three shares count.
    exact = shares(
        1.000001 * 16 / math.sqrt(3), size=4, norm=2.0**-4, codec=FixedPointCodec(64.0, 4), clipping_margin=0.0
    )
    assert exact.deviation == pytest.approx(MIN_SIGMA, rel=1e-5)
    margin = shares().margin
    assert margin == pytest.approx(TAIL * shares().deviation * STEP)
    with pytest.raises(UserError, match="aggregation"):
        shares(codec=FixedPointCodec(1.999 * margin, 20))
    assert shares(codec=FixedPointCodec(2.001 * margin, 20)).limit == pytest.approx(1.001 * margin)


# One share.


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_a_share_is_a_rounded_normal_value_of_the_stated_deviation(source):
    drawn, told = rounded_gaussian(400_000, 1000.0, source, Randomness(1))
    assert told == source
    assert drawn.dtype == np.int64
    assert abs(drawn.mean()) < 8.0
    assert drawn.std() == pytest.approx(1000.0, rel=0.006)
    assert stats.kstest(drawn[:100_000] / 1000.0, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.008


def test_seeded_shares_repeat_and_secure_ones_do_not():
    for source, same in [("seeded", True), ("secure", False)]:
        first, again, other = (rounded_gaussian(100, 50.0, source, Randomness(seed)).values for seed in (1, 1, 2))
        assert np.array_equal(first, again) == same
        assert not np.array_equal(first, other)


def test_a_share_never_leaves_its_margin():
    with mock.patch.object(noise_module, "TAIL", 1.5):
        drawn = rounded_gaussian(10_000, 100.0, "seeded", Randomness(1)).values
    assert drawn.max() == 150 and drawn.min() == -150 and np.median(np.abs(drawn)) == pytest.approx(67, abs=3)


# The noise of a sum.


def check_noise_against_colluders_and_dropouts(make: Callable[[DistributedGaussian], FederatedAlgorithm], plant: Plant = honest) -> None:
    """Compare what is accounted with the noise that is left at worst: colluders know theirs, dropouts send none."""
    for clients, colluders, dropouts in [(2, 1, 0), (5, 1, 2), (8, 3, 0)]:
        work = plant(make(shares(1.5, clients, colluders, dropouts, codec=FixedPointCodec(16.0, 20))))
        left = np.sum(contributions(work)[colluders + dropouts :], axis=0) * STEP
        stated = work.contribute(
            Silent(), ClientData(IDLE, blank(8)), turn(0, parameters=np.zeros(VALUES, np.float32))
        ).events[0]
        assert stated.noise_multiplier == pytest.approx(1.5, rel=1e-9)
        # Five standard errors of 78,400 values.
        assert left.std() / sensitivity(0.1, VALUES) == pytest.approx(1.5, rel=0.013)
        assert abs(left.mean()) < 5 * left.std() / math.sqrt(VALUES)


@pytest.mark.parametrize("make", [by_example, by_client])
def test_the_noise_that_nobody_knows_is_that_which_is_accounted(make):
    check_noise_against_colluders_and_dropouts(make)


def one_share_less(work):
    last = work.shares.clients - 1
    return Changed(work, lambda made, turn: replace(made, noise=None) if turn.client == last else made)


def half_the_noise(work):
    return Changed(work, lambda made, turn: replace(made, noise=made.noise // 2))


class CountsDropouts(DistributedGaussian):
    """Relies on the shares of clients that may fail."""

    @property
    def counted(self) -> int:
        return self.clients - self.colluders


class CountsColluders(DistributedGaussian):
    """Relies on the shares of clients that may tell theirs."""

    @property
    def counted(self) -> int:
        return self.clients - self.dropouts


def counting(kind):
    return lambda work: replace(work, shares=kind(**vars(work.shares)))


def the_same_share_for_all(work):
    return Changed(work, lambda made, turn: replace(made, noise=work.shares.draw(Randomness(1)).values))


NOISE_FAULTS = {
    "one share less": one_share_less,
    "half the noise": half_the_noise,
    "dropouts are counted": counting(CountsDropouts),
    "colluders are counted": counting(CountsColluders),
    "the same share for all": the_same_share_for_all,
}


@pytest.mark.parametrize("make", [by_example, by_client])
@pytest.mark.parametrize("plant", NOISE_FAULTS.values(), ids=NOISE_FAULTS)
def test_noise_that_is_less_than_accounted_is_caught(plant, make):
    with pytest.raises(AssertionError):
        check_noise_against_colluders_and_dropouts(make, plant)


def test_shares_are_independent_over_clients_and_rounds():
    work = by_example(shares())
    drawn = np.array([*contributions(work, 1), *contributions(work, 2)], dtype=float)
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.018, "five standard errors"


# Why rounded shares are the Gaussian mechanism: the claim of the module, where what it neglects can be seen.


def density_of_errors(total: float, deviation: float, clients: int, places: int = 16) -> np.ndarray:
    """Return the density of the rounding errors of all shares but the last, given that the shares add up to ``total``.

    On a lattice in the unit cube; the last error is then known up to whole numbers. Errors are those of normal shares,
    summed over the whole numbers that they were rounded to.
    """
    errors = np.arange(places) / places
    reach = range(-math.ceil(9 * deviation) - 1, math.ceil(9 * deviation) + 2)
    wrapped = errors[:, None] + np.array(list(reach))[None, :]
    axis = wrapped.reshape(-1)
    shares_of = np.meshgrid(*[axis] * (clients - 1), indexing="ij")
    last = total - sum(shares_of)
    exponent = -(sum(share**2 for share in shares_of) + last**2) / (2 * deviation**2)
    summed = np.exp(exponent - exponent.max())
    for place in range(clients - 1):
        shape = summed.shape
        summed = summed.reshape(*shape[:place], places, len(reach), *shape[place + 1 :]).sum(axis=place + 1)
    return summed / summed.mean()


def farthest(clients: int, deviation: float) -> float:
    """Return the size of the largest term by which the errors are not uniform, given the sum of the shares."""
    return math.exp(-2 * math.pi**2 * deviation**2 * (1 - 1 / clients))


@pytest.mark.parametrize("total", [0.0, 0.37, 5.5])
@pytest.mark.parametrize(("clients", "deviation"), [(2, 0.5), (2, 1.0), (2, 1.4), (3, 0.5), (3, 1.0), (3, 1.25)])
def test_given_the_sum_of_the_shares_their_rounding_errors_are_uniform_but_for_a_term(total, clients, deviation):
    density = density_of_errors(total, deviation, clients)
    # The characteristic function at whole frequencies, of which a uniform density has none but the mean.
    terms = np.abs(np.fft.fftn(density)) / density.size
    terms[(0,) * (clients - 1)] = 0.0
    assert terms.max() == pytest.approx(farthest(clients, deviation), rel=1e-3)
    # With its two directions and as many of them as there are clients.
    assert np.abs(density - 1).max() <= 1.1 * 2 * clients * farthest(clients, deviation) + 1e-13
    assert farthest(clients, deviation) <= math.exp(-(math.pi**2) * deviation**2) * (1 + 1e-12)


def test_without_the_argument_the_errors_would_be_far_from_uniform():
    assert np.abs(density_of_errors(0.0, 0.2, 2) - 1).max() > 1.0


@pytest.mark.parametrize("clients", [2, 3, 10, 10**6])
def test_at_the_least_deviation_that_is_allowed_the_term_is_nothing(clients):
    logarithm = -2 * math.pi**2 * MIN_SIGMA**2 * (1 - 1 / clients) / math.log(10)
    assert logarithm + math.log10(2 * clients) < -600
