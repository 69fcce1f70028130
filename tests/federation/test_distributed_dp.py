"""Distributed noise: its size, the clients that it comes from, and its equality to the Gaussian mechanism."""

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
from ppml.federation.algorithms import ClientData, FederatedAlgorithm
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
from .sum_noise import (
    IDLE,
    STEP,
    VALUES,
    Changed,
    Plant,
    by_client,
    by_example,
    distributed_gaussian,
    honest,
    noisy_updates,
    round_context,
    sensitivity,
)

# Arithmetic.


@pytest.mark.parametrize(("clients", "colluding", "dropouts"), [(2, 1, 0), (8, 1, 0), (10, 3, 2), (50, 1, 10)])
@pytest.mark.parametrize("noise", [0.5, 1.0, 7.3])
def test_noise_of_honest_clients_adds_up_to_the_stated_noise(clients, colluding, dropouts, noise):
    one = distributed_gaussian(noise, clients, colluding, dropouts, codec=FixedPointCodec(1e4, 20))
    honest = clients - colluding - dropouts
    assert one.honest_clients == honest
    assert one.sensitivity == pytest.approx(sensitivity(0.1, VALUES), rel=1e-15)
    assert math.sqrt(honest) * one.sigma * STEP == pytest.approx(noise * sensitivity(0.1, VALUES), rel=1e-12)
    event = one.event(Sampling("poisson", 0.25, "seeded"), "secure")
    assert (event.noise_source, event.sampling_source) == ("secure", "seeded")
    assert (event.sample_rate, event.steps, event.max_grad_norm, event.sampler) == (0.25, 1, 0.1, "poisson")
    assert event.noise_multiplier == pytest.approx(noise, rel=1e-12)


def test_sensitivity_covers_rounding():
    # Half steps: one more example may change the rounding of each value.
    codec, rng = FixedPointCodec(1e4, 4), np.random.default_rng(1)
    one = distributed_gaussian(10.0, size=50, max_norm=0.3, codec=codec)
    largest = 0.0
    for _ in range(300):
        others, own = rng.normal(0.0, 1.0, 50), rng.normal(0.0, 1.0, 50)
        own *= 0.3 / np.linalg.norm(own)
        changed = codec.decode(codec.encode(others + own) - codec.encode(others))
        largest = max(largest, float(np.linalg.norm(changed)))
    assert 0.3 < largest <= one.sensitivity, "rounding increases the norm"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"clients": 3, "colluding": 2, "dropouts": 1},
            r"^privacy: got 3 clients, of which 2 may collude and 1 may drop out",
        ),
        ({"clients": 1}, r"^privacy: got 1 clients, of which 1 may collude and 0 may drop out"),
        (
            {"codec": FixedPointCodec(8.0, 4), "max_norm": 1e-9, "noise": 1e-3},
            r"^aggregation\.fractional_bits: got 4; .* 0\.162 steps of the grid, at least 16 ",
        ),
        (
            {"codec": FixedPointCodec(1.0, 20)},
            r"^aggregation\.clip: got 1; .* 0\.696 of it, .* raise clip to 1\.39 or more$",
        ),
    ],
)
def test_impossible_distributed_noise_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        distributed_gaussian(**given)


def test_smallest_sigma_and_smallest_clip_are_allowed():
    # Norm and rounding add up to three steps, and there are three honest clients.
    exact = distributed_gaussian(
        1.000001 * 16 / math.sqrt(3), size=4, max_norm=2.0**-4, codec=FixedPointCodec(64.0, 4), clipping_margin=0.0
    )
    assert exact.sigma == pytest.approx(MIN_SIGMA, rel=1e-5)
    limit = distributed_gaussian().noise_limit
    assert limit == pytest.approx(TAIL * distributed_gaussian().sigma * STEP)
    with pytest.raises(UserError, match="aggregation"):
        distributed_gaussian(codec=FixedPointCodec(1.999 * limit, 20))
    assert distributed_gaussian(codec=FixedPointCodec(2.001 * limit, 20)).value_limit == pytest.approx(1.001 * limit)


# One noise term.


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_noise_term_is_a_rounded_normal_sample(source):
    drawn, reported = rounded_gaussian(400_000, 1000.0, source, Randomness(1))
    assert reported == source
    assert drawn.dtype == np.int64
    assert abs(drawn.mean()) < 8.0
    assert drawn.std() == pytest.approx(1000.0, rel=0.006)
    assert stats.kstest(drawn[:100_000] / 1000.0, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.008


def test_seeded_noise_terms_repeat_and_secure_ones_do_not():
    for source, same in [("seeded", True), ("secure", False)]:
        first, again, other = (rounded_gaussian(100, 50.0, source, Randomness(seed)).values for seed in (1, 1, 2))
        assert np.array_equal(first, again) == same
        assert not np.array_equal(first, other)


def test_noise_term_is_cut_off_at_its_limit():
    with mock.patch.object(noise_module, "TAIL", 1.5):
        drawn = rounded_gaussian(10_000, 100.0, "seeded", Randomness(1)).values
    assert drawn.max() == 150 and drawn.min() == -150 and np.median(np.abs(drawn)) == pytest.approx(67, abs=3)


# The noise of a sum.


def check_noise_of_honest_clients(
    make: Callable[[DistributedGaussian], FederatedAlgorithm], plant: Plant = honest
) -> None:
    """Compare the account with the least unknown noise: without that of colluding clients and of dropouts."""
    for clients, colluding, dropouts in [(2, 1, 0), (5, 1, 2), (8, 3, 0)]:
        algorithm = plant(
            make(distributed_gaussian(1.5, clients, colluding, dropouts, codec=FixedPointCodec(16.0, 20)))
        )
        left = np.sum(noisy_updates(algorithm)[colluding + dropouts :], axis=0) * STEP
        stated = algorithm.compute_update(
            Silent(), ClientData(IDLE, blank(8)), round_context(0, parameters=np.zeros(VALUES, np.float32))
        ).events[0]
        assert stated.noise_multiplier == pytest.approx(1.5, rel=1e-9)
        # Five standard errors of 78,400 values.
        assert left.std() / sensitivity(0.1, VALUES) == pytest.approx(1.5, rel=0.013)
        assert abs(left.mean()) < 5 * left.std() / math.sqrt(VALUES)


@pytest.mark.parametrize("make", [by_example, by_client])
def test_account_has_the_noise_of_honest_clients(make):
    check_noise_of_honest_clients(make)


def without_one_noise_term(algorithm):
    last = algorithm.noise.clients - 1
    return Changed(
        algorithm, lambda made, round_context: replace(made, noise=None) if round_context.client == last else made
    )


def half_the_noise(algorithm):
    return Changed(algorithm, lambda made, round_context: replace(made, noise=made.noise // 2))


class CountsDropouts(DistributedGaussian):
    """Relies on the noise of clients that may drop out."""

    @property
    def honest_clients(self) -> int:
        return self.clients - self.max_colluding


class CountsColluders(DistributedGaussian):
    """Relies on the noise of clients that may collude."""

    @property
    def honest_clients(self) -> int:
        return self.clients - self.max_dropouts


def counting(kind):
    return lambda algorithm: replace(algorithm, noise=kind(**vars(algorithm.noise)))


def with_equal_noise_terms(algorithm):
    return Changed(
        algorithm, lambda made, round_context: replace(made, noise=algorithm.noise.sample(Randomness(1)).values)
    )


NOISE_FAULTS = {
    "one noise term less": without_one_noise_term,
    "half the noise": half_the_noise,
    "dropouts count": counting(CountsDropouts),
    "colluding clients count": counting(CountsColluders),
    "equal noise terms": with_equal_noise_terms,
}


@pytest.mark.parametrize("make", [by_example, by_client])
@pytest.mark.parametrize("plant", NOISE_FAULTS.values(), ids=NOISE_FAULTS)
def test_less_noise_than_accounted_is_detected(plant, make):
    with pytest.raises(AssertionError):
        check_noise_of_honest_clients(make, plant)


def test_noise_terms_are_independent_over_clients_and_rounds():
    algorithm = by_example(distributed_gaussian())
    drawn = np.array([*noisy_updates(algorithm, 1), *noisy_updates(algorithm, 2)], dtype=float)
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.018, "five standard errors"


# The sum of rounded noise terms is the Gaussian mechanism: the argument of the module, at a visible error.


def density_of_rounding_errors(total: float, deviation: float, clients: int, places: int = 16) -> np.ndarray:
    """Return the density of the rounding errors of all noise terms but the last, given the sum ``total`` of the terms.

    The density is on a lattice in the unit cube; the last error is then known modulo 1. It is that of normal terms,
    summed over the integers to which they are rounded.
    """
    errors = np.arange(places) / places
    reach = range(-math.ceil(9 * deviation) - 1, math.ceil(9 * deviation) + 2)
    wrapped = errors[:, None] + np.array(list(reach))[None, :]
    axis = wrapped.reshape(-1)
    terms = np.meshgrid(*[axis] * (clients - 1), indexing="ij")
    last = total - sum(terms)
    exponent = -(sum(term**2 for term in terms) + last**2) / (2 * deviation**2)
    summed = np.exp(exponent - exponent.max())
    for place in range(clients - 1):
        shape = summed.shape
        summed = summed.reshape(*shape[:place], places, len(reach), *shape[place + 1 :]).sum(axis=place + 1)
    return summed / summed.mean()


def largest_deviation_from_uniform(clients: int, deviation: float) -> float:
    """Return the largest coefficient by which the errors differ from uniform ones, given the sum."""
    return math.exp(-2 * math.pi**2 * deviation**2 * (1 - 1 / clients))


@pytest.mark.parametrize("total", [0.0, 0.37, 5.5])
@pytest.mark.parametrize(("clients", "deviation"), [(2, 0.5), (2, 1.0), (2, 1.4), (3, 0.5), (3, 1.0), (3, 1.25)])
def test_rounding_errors_given_the_sum_are_nearly_uniform(total, clients, deviation):
    density = density_of_rounding_errors(total, deviation, clients)
    # The characteristic function at integer frequencies, which is 0 for a uniform density, except for the mean.
    coefficients = np.abs(np.fft.fftn(density)) / density.size
    coefficients[(0,) * (clients - 1)] = 0.0
    assert coefficients.max() == pytest.approx(largest_deviation_from_uniform(clients, deviation), rel=1e-3)
    # Each client has two such coefficients.
    assert np.abs(density - 1).max() <= 1.1 * 2 * clients * largest_deviation_from_uniform(clients, deviation) + 1e-13
    assert largest_deviation_from_uniform(clients, deviation) <= math.exp(-(math.pi**2) * deviation**2) * (1 + 1e-12)


def test_rounding_errors_of_small_sigma_are_not_uniform():
    assert np.abs(density_of_rounding_errors(0.0, 0.2, 2) - 1).max() > 1.0


@pytest.mark.parametrize("clients", [2, 3, 10, 10**6])
def test_deviation_from_uniform_is_negligible_at_min_sigma(clients):
    logarithm = -2 * math.pi**2 * MIN_SIGMA**2 * (1 - 1 / clients) / math.log(10)
    assert logarithm + math.log10(2 * clients) < -600
