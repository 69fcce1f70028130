"""What the checks before training promise, tried on real ciphertexts at the boundary."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tenseal as ts

from ppml.aggregation.capacity import (
    MAX_COEFFICIENT_BITS,
    ckks_error,
    ckks_headroom_bits,
    ckks_precision_sigmas,
    plaintext_headroom_bits,
)
from ppml.aggregation.ckks import CkksClients, CkksServer, _unpack
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.config.technique import Ckks, Plaintext

SMALL = {"poly_modulus_degree": 4096, "coeff_mod_bit_sizes": (54, 55), "scale_bits": 40, "fractional_bits": 20}
LARGE = {"poly_modulus_degree": 8192, "coeff_mod_bit_sizes": (60, 60), "scale_bits": 45, "fractional_bits": 24}


def accepts(spec: Ckks | Plaintext, clients: int) -> bool:
    try:
        spec.refuse_overflow(clients)
    except Exception:
        return False
    return True


def wrong_values(spec: Ckks, clients: int, updates: np.ndarray) -> int:
    """Return how many of the decrypted sums of ``updates`` are not exact; all, if they cannot be encrypted."""
    codec, side = FixedPointCodec(spec.clip, spec.fractional_bits), CkksClients(spec)
    server = CkksServer(side.public_material())
    grids = [codec.encode(update) for update in updates]
    try:
        total = side.unseal(server.add([side.seal(grid) for grid in grids]))
    except ValueError:
        return len(grids[0])
    return int((total != np.sum(grids, axis=0)).sum())


# The error of the encryption.


@pytest.mark.parametrize("clients", [1, 8])
@pytest.mark.parametrize("parameters", [SMALL, LARGE], ids=["4096", "8192"])
def test_the_predicted_error_is_the_measured_one_to_5_percent(parameters, clients):
    spec = Ckks(**parameters)
    side = CkksClients(spec)
    server = CkksServer(side.public_material())
    codec = FixedPointCodec(spec.clip, spec.fractional_bits)
    rng = np.random.default_rng(0)
    grids = [codec.encode(rng.uniform(-1, 1, 16 * spec.poly_modulus_degree // 2)) for _ in range(clients)]
    total = server.add([side.seal(grid) for grid in grids])
    raw = np.concatenate([ts.ckks_vector_from(side._context, one).decrypt() for one in _unpack(total.payload)])
    errors = raw - codec.decode(np.sum(grids, axis=0))
    predicted = ckks_error(clients, spec.scale_bits, spec.poly_modulus_degree)
    assert errors.std() == pytest.approx(predicted, rel=0.05)
    # Far tails are those of Laplace, not of Gauss, whose share beyond four deviations is 0.00006.
    assert (np.abs(errors) > 4 * predicted).mean() == pytest.approx(math.exp(-4 * math.sqrt(2)), rel=0.7)


def test_the_finest_grid_that_is_accepted_gives_exact_sums():
    sound = Ckks(**{**SMALL, "fractional_bits": 23})
    assert accepts(sound, 8)
    assert not accepts(Ckks(**{**SMALL, "fractional_bits": 24}), 8)
    assert wrong_values(sound, 8, np.random.default_rng(0).uniform(-1, 1, (8, 50_000))) == 0


def test_a_grid_of_six_deviations_of_the_average_is_refused_and_would_give_wrong_sums():
    # Gauss would have one value in 500 million wrong; it is one in 5,000.
    assert 2.0**-28 / ckks_error(1, 40, 4096) == pytest.approx(6.0, abs=0.1)
    too_fine = Ckks(**{**SMALL, "fractional_bits": 27})
    assert not accepts(too_fine, 1)
    assert wrong_values(too_fine, 1, np.random.default_rng(0).uniform(-1, 1, (1, 200_000))) > 4


def test_precision_counts_half_a_grid_step_in_deviations_of_a_bad_slot():
    assert ckks_precision_sigmas(4, 20, 40, 4096) == pytest.approx(2.0**-21 / (4 * ckks_error(4, 40, 4096)))
    assert ckks_error(9, 40, 4096) == pytest.approx(3 * ckks_error(1, 40, 4096))
    assert ckks_error(1, 41, 4096) == pytest.approx(ckks_error(1, 40, 4096) / 2)


# Overflow.

BOUNDARIES = [
    pytest.param(SMALL, 1, id="4096, one client"),
    pytest.param(SMALL, 2, id="4096, two clients"),
    pytest.param(SMALL, 32, id="4096, 32 clients"),
    pytest.param({**LARGE, "scale_bits": 50}, 8, id="8192"),
    pytest.param({**SMALL, "coeff_mod_bit_sizes": (30, 30), "scale_bits": 24, "fractional_bits": 5}, 2, id="30 bits"),
    pytest.param({**LARGE, "coeff_mod_bit_sizes": (30, 30, 30), "scale_bits": 40, "fractional_bits": 20}, 2, id="two"),
]


def largest_clip(parameters: dict[str, object], clients: int) -> float:
    """Return the largest clip, to 0.1 %, that the check before training accepts."""
    low, high = 0.5, 2.0**40
    assert accepts(Ckks(**parameters, clip=low), clients)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if accepts(Ckks(**parameters, clip=middle), clients) else (low, middle)
    return low


@pytest.mark.parametrize(("parameters", "clients"), BOUNDARIES)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sum_that_is_accepted_decrypts_exactly(parameters, clients, sign):
    spec = Ckks(**parameters, clip=largest_clip(parameters, clients))
    # Equal values put the whole sum into one coefficient, the worst case.
    updates = np.full((clients, spec.poly_modulus_degree // 2), sign * spec.clip)
    assert wrong_values(spec, clients, updates) == 0


@pytest.mark.parametrize(("parameters", "clients"), BOUNDARIES)
def test_an_overflow_would_give_wrong_sums_so_the_check_is_needed(parameters, clients):
    spec = Ckks(**parameters, clip=largest_clip(parameters, clients) * 2.5)
    assert not accepts(spec, clients)
    assert wrong_values(spec, clients, np.full((clients, spec.poly_modulus_degree // 2), spec.clip)) > 0


def test_a_sum_that_float64_cannot_carry_is_refused_and_would_give_wrong_sums():
    parameters = {**LARGE, "coeff_mod_bit_sizes": (60, 60, 60), "scale_bits": 60, "fractional_bits": 40}
    spec = Ckks(**parameters, clip=16_000.0)
    assert not accepts(spec, 2)
    assert ckks_headroom_bits(2, 16_000.0, 60, 120) < 0
    assert wrong_values(spec, 2, np.random.default_rng(0).uniform(-16_000, 16_000, (2, 4096))) > 0


def test_the_finest_grid_that_is_accepted_survives_float64():
    parameters = {**LARGE, "coeff_mod_bit_sizes": (60, 60, 60), "scale_bits": 54, "fractional_bits": 36}
    spec = Ckks(**parameters, clip=largest_clip(parameters, 8))
    assert wrong_values(spec, 8, np.random.default_rng(0).uniform(-spec.clip, spec.clip, (8, 4096))) == 0


def test_the_default_parameters_leave_room_for_hundreds_of_clients():
    assert accepts(Ckks(), 400)
    assert accepts(Plaintext(), 400)


def test_plaintext_headroom_is_what_63_bits_leave():
    assert plaintext_headroom_bits(8, 8.0, 20) == pytest.approx(63 - 3 - 3 - 20, abs=1e-4)
    assert accepts(Plaintext(clip=2.0**38, fractional_bits=20), 16)
    assert not accepts(Plaintext(clip=2.0**39, fractional_bits=20), 16)


def test_the_largest_plaintext_sum_that_is_accepted_is_exact():
    codec = FixedPointCodec(2.0**38, 20)
    aggregation = PlaintextAggregation(codec, 16)
    update = codec.encode(np.array([codec.clip, -codec.clip]))
    total = aggregation.unseal(aggregation.add([aggregation.seal(update)] * 16))
    assert [int(value) for value in total] == [2**62, -(2**62)]


# Security.


@pytest.mark.parametrize("degree", [4096, 8192, 16384, 32768])
def test_parameters_under_128_bits_are_refused(degree):
    limit = MAX_COEFFICIENT_BITS[degree]
    whole, rest = divmod(limit, 60)
    sizes = [60] * (whole - 1) + [30 + rest // 2, 30 + rest - rest // 2]
    assert sum(sizes) == limit
    Ckks(poly_modulus_degree=degree, coeff_mod_bit_sizes=tuple(sizes))
    sizes[-1] += 1
    with pytest.raises(ValueError, match="under 128 bits of security"):
        Ckks(poly_modulus_degree=degree, coeff_mod_bit_sizes=tuple(sizes))


@pytest.mark.parametrize("degree", [4096, 8192])
def test_the_library_draws_the_same_line(degree):
    limit = MAX_COEFFICIENT_BITS[degree]
    one = limit // 4
    allowed = [one, one, one, limit - 3 * one]
    ts.context(ts.SCHEME_TYPE.CKKS, degree, -1, allowed, n_threads=1)
    with pytest.raises((ValueError, RuntimeError)):
        ts.context(ts.SCHEME_TYPE.CKKS, degree, -1, [*allowed[:-1], allowed[-1] + 1], n_threads=1)


@pytest.mark.parametrize("sizes", [(54,), (), (54, 19), (61, 30)])
def test_a_chain_of_less_than_two_primes_of_20_to_60_bits_is_refused(sizes):
    with pytest.raises(ValueError, match="at least two primes"):
        Ckks(poly_modulus_degree=8192, coeff_mod_bit_sizes=sizes)
