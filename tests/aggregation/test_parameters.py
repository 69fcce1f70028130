"""The checks before training, tested on real ciphertexts at their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tenseal as ts
from tenseal import sealapi

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.lattice import deserialize
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation_parameters import (
    MAX_COEFFICIENT_BITS,
    MAX_PRIME_BITS,
    bfv_plain_bits,
    bfv_ring,
    ckks_error,
    ckks_headroom_bits,
    ckks_precision_sigmas,
    plaintext_headroom_bits,
)
from ppml.config.technique import Bfv, Ckks, Encrypted, Plaintext

from .local import Local

SMALL = {"poly_modulus_degree": 4096, "coeff_mod_bit_sizes": (54, 40), "scale_bits": 40, "fractional_bits": 20}
LARGE = {"poly_modulus_degree": 8192, "coeff_mod_bit_sizes": (60, 60), "scale_bits": 45, "fractional_bits": 24}


def accepts(spec: Encrypted | Plaintext, clients: int) -> bool:
    try:
        spec.check_sum(clients)
    except Exception:
        return False
    return True


def wrong_values(spec: Encrypted, clients: int, updates: np.ndarray) -> int:
    """Return the number of inexact decrypted sums of ``updates``; all, if encryption fails."""
    codec, side = FixedPointCodec(spec.clip, spec.fractional_bits), Local(spec, clients)
    server = side.server()
    grids = [codec.encode(update) for update in updates]
    try:
        total = side.reveal(server.add([side.protect(grid) for grid in grids]))
    except ValueError:
        return len(grids[0])
    return int((total != np.sum(grids, axis=0)).sum())


def raw_values(side, chunk: bytes) -> np.ndarray:
    """Return the decryption before it is rounded to the grid."""
    plain = sealapi.Plaintext()
    side.keys._decryptor.decrypt(deserialize(sealapi.Ciphertext(), side.scheme.context, chunk), plain)
    slots = np.array(side.scheme.encoding._encoder.decode_complex(plain))
    return np.concatenate([slots.real, slots.imag])


# The error of the encryption.


@pytest.mark.parametrize("clients", [1, 8])
@pytest.mark.parametrize("parameters", [SMALL, LARGE], ids=["4096", "8192"])
def test_predicted_ckks_error_matches_measurement(parameters, clients):
    spec = Ckks(**parameters)
    side = Local(spec, clients)
    server = side.server()
    codec = FixedPointCodec(spec.clip, spec.fractional_bits)
    rng = np.random.default_rng(0)
    grids = [codec.encode(rng.uniform(-1, 1, 8 * spec.poly_modulus_degree)) for _ in range(clients)]
    total = server.add([side.protect(grid) for grid in grids])
    raw = np.concatenate([raw_values(side, one) for one in side.scheme.ciphertexts(total, side.fingerprint)])
    errors = raw - codec.decode(np.sum(grids, axis=0))
    predicted = ckks_error(clients, spec.scale_bits, spec.poly_modulus_degree)
    assert errors.std() == pytest.approx(predicted, rel=0.05)
    # The tails are those of Laplace; a Gaussian has a fraction of 0.00006 beyond four deviations.
    assert (np.abs(errors) > 4 * predicted).mean() == pytest.approx(math.exp(-4 * math.sqrt(2)), rel=0.7)


def test_finest_accepted_grid_has_exact_sums():
    sound = Ckks(**{**SMALL, "fractional_bits": 23})
    assert accepts(sound, 8)
    assert not accepts(Ckks(**{**SMALL, "fractional_bits": 24}), 8)
    assert wrong_values(sound, 8, np.random.default_rng(0).uniform(-1, 1, (8, 50_000))) == 0


def test_too_fine_grid_is_refused_and_has_wrong_sums():
    # A Gaussian would have one wrong value in 500 million; the measured fraction is one in 5,000.
    assert 2.0**-28 / ckks_error(1, 40, 4096) == pytest.approx(6.0, abs=0.1)
    too_fine = Ckks(**{**SMALL, "fractional_bits": 27})
    assert not accepts(too_fine, 2)
    assert wrong_values(too_fine, 1, np.random.default_rng(0).uniform(-1, 1, (1, 200_000))) > 4


def test_precision_is_half_grid_step_in_deviations():
    assert ckks_precision_sigmas(4, 20, 40, 4096) == pytest.approx(2.0**-21 / (4 * ckks_error(4, 40, 4096)))
    assert ckks_error(9, 40, 4096) == pytest.approx(3 * ckks_error(1, 40, 4096))
    assert ckks_error(1, 41, 4096) == pytest.approx(ckks_error(1, 40, 4096) / 2)


# Overflow.

BOUNDARIES = [
    pytest.param(SMALL, 2, id="4096, two clients"),
    pytest.param(SMALL, 32, id="4096, 32 clients"),
    pytest.param({**LARGE, "scale_bits": 50}, 8, id="8192"),
    pytest.param({**SMALL, "coeff_mod_bit_sizes": (30, 30), "scale_bits": 24, "fractional_bits": 5}, 2, id="30 bits"),
    pytest.param({**LARGE, "coeff_mod_bit_sizes": (30, 30, 30), "scale_bits": 40, "fractional_bits": 20}, 2, id="two"),
]


def largest_clip(parameters: dict[str, object], clients: int) -> float:
    """Return the largest accepted clip, to 0.1 %."""
    low, high = 0.5, 2.0**40
    assert accepts(Ckks(**parameters, clip=low), clients)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if accepts(Ckks(**parameters, clip=middle), clients) else (low, middle)
    return low


@pytest.mark.parametrize(("parameters", "clients"), BOUNDARIES)
@pytest.mark.parametrize("sign", [-1, 1])
def test_largest_accepted_sum_decrypts_exactly(parameters, clients, sign):
    spec = Ckks(**parameters, clip=largest_clip(parameters, clients))
    assert wrong_values(spec, clients, sign * worst_case(spec, clients)) == 0


@pytest.mark.parametrize(("parameters", "clients"), BOUNDARIES)
def test_ckks_overflow_gives_wrong_sums(parameters, clients):
    spec = Ckks(**parameters, clip=largest_clip(parameters, clients) * 2.5)
    assert not accepts(spec, clients)
    assert wrong_values(spec, clients, worst_case(spec, clients)) > 0


def worst_case(spec: Ckks, clients: int) -> np.ndarray:
    """Return updates at the bound with a sum in a single coefficient.

    Slot ``j`` is the value at a root of 1 whose ``N/4``-th power is at 45 degrees for even ``j`` and opposite for odd
    ones, where both parts of a slot at the bound point, too.
    """
    signs = np.where(np.arange(spec.poly_modulus_degree) % 2, -1.0, 1.0)
    return np.tile(signs * spec.clip, (clients, 1))


def test_worst_case_is_in_one_coefficient():
    spec = Ckks()
    codec = FixedPointCodec(spec.clip, spec.fractional_bits)
    side = Local(spec, 1)
    plain = side.scheme.encoding.encode(codec.encode(worst_case(spec, 1)[0]))
    slots = np.array(side.scheme.encoding._encoder.decode_complex(plain))
    degree = spec.poly_modulus_degree
    roots = np.exp(1j * np.pi * np.array([pow(5, slot, 2 * degree) for slot in range(degree // 2)]) / degree)
    in_one = 2 / degree * np.real(np.sum(slots * np.conj(roots ** (degree // 4))))
    assert in_one == pytest.approx(math.sqrt(2) * spec.clip, rel=1e-9)


def test_sum_beyond_float64_is_refused_and_wrong():
    parameters = {**LARGE, "coeff_mod_bit_sizes": (60, 60, 60), "scale_bits": 60, "fractional_bits": 40}
    spec = Ckks(**parameters, clip=16_000.0)
    assert not accepts(spec, 2)
    assert ckks_headroom_bits(2, 16_000.0, 60, 120) < 0
    assert wrong_values(spec, 2, np.random.default_rng(0).uniform(-16_000, 16_000, (2, 4096))) > 0


def test_finest_accepted_grid_fits_float64():
    parameters = {**LARGE, "coeff_mod_bit_sizes": (60, 60, 60), "scale_bits": 54, "fractional_bits": 36}
    spec = Ckks(**parameters, clip=largest_clip(parameters, 8))
    assert wrong_values(spec, 8, np.random.default_rng(0).uniform(-spec.clip, spec.clip, (8, 4096))) == 0


def test_default_parameters_hold_hundreds_of_clients():
    assert accepts(Ckks(), 400)
    assert accepts(Plaintext(), 400)


def test_plaintext_headroom_is_relative_to_63_bits():
    assert plaintext_headroom_bits(8, 8.0, 20) == pytest.approx(63 - 3 - 3 - 20, abs=1e-4)
    assert accepts(Plaintext(clip=2.0**38, fractional_bits=20), 16)
    assert not accepts(Plaintext(clip=2.0**39, fractional_bits=20), 16)


def test_largest_accepted_plaintext_sum_is_exact():
    codec = FixedPointCodec(2.0**38, 20)
    aggregation = PlaintextAggregation(codec, 16)
    update = codec.encode(np.array([codec.clip, -codec.clip]))
    total = aggregation.reveal(aggregation.add([aggregation.protect(update)] * 16))
    assert [int(value) for value in total] == [2**62, -(2**62)]


# BFV: the ring fits the sum.


def bfv_sum_is_exact(spec: Bfv, clients: int, counted: int) -> bool:
    """Return whether ``counted`` updates at the bound add exactly in the ring for ``clients`` clients."""
    side = Local(spec, clients)
    server = side.server()
    update = FixedPointCodec(spec.clip, spec.fractional_bits).encode(np.array([spec.clip, -spec.clip] * 1024))
    total = server.add([side.protect(update) for _ in range(counted)])
    return bool(np.array_equal(side.reveal(total), counted * update))


@pytest.mark.parametrize("keys", ["public", "shared"])
@pytest.mark.parametrize("clients", [1, 2, 8, 33, 1000])
def test_bfv_sums_at_bound_are_exact(clients, keys):
    assert bfv_sum_is_exact(Bfv(keys=keys), clients, clients)


def test_bfv_sums_overflow_beyond_bound_only():
    """The sum of values of one step overflows beyond half of the prime."""
    spec = Bfv(clip=1.0, fractional_bits=4)
    side = Local(spec, 1)
    parameters = side.scheme.context.first_context_data().parms()
    prime = parameters.plain_modulus().value()
    assert bfv_plain_bits(1, 1.0, 4) == 24
    most = (prime - 1) // 2
    encoding = side.scheme.encoding
    assert encoding.decode(encoding.encode(np.array([most, -most])))[:2].tolist() == [most, -most]
    server = side.server()
    edge, one = side.protect(np.array([most - 1, 1 - most])), side.protect(np.array([1, -1]))
    assert side.reveal(server.add([edge, one])).tolist() == [most, -most]
    assert side.reveal(server.add([edge, one, one])).tolist() == [-most, most]


def largest_bfv_clients(spec: Bfv) -> int:
    low, high = 1, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepts(spec, middle) else (low, middle)
    return low


@pytest.mark.parametrize("keys", ["public", "shared"])
@pytest.mark.parametrize("fractional_bits", [20, 30])
def test_largest_accepted_bfv_client_count_is_exact(keys, fractional_bits):
    spec = Bfv(keys=keys, clip=64.0, fractional_bits=fractional_bits)
    most = largest_bfv_clients(spec)
    assert bfv_ring(most, spec.clip, fractional_bits, keys).modulus_bits <= MAX_PRIME_BITS
    side = Local(spec, most)
    update = FixedPointCodec(spec.clip, fractional_bits).encode(np.array([spec.clip, -spec.clip]))
    assert side.reveal(side.protect(most * update)).tolist() == (most * update).tolist()
    with pytest.raises(ValueError, match=rf"overflows: {most + 1} clients x clip 64.0 .* needs \d+ bits more"):
        spec.check_sum(most + 1)


def test_too_many_bfv_clients_give_wrong_sums():
    # The ring is that of one client.
    assert bfv_sum_is_exact(Bfv(), 1, 1) and not bfv_sum_is_exact(Bfv(), 1, 3)


@pytest.mark.parametrize("degree", [2048, 4096])
def test_bfv_primes_are_near_powers_of_two(degree):
    for bits in range(24, MAX_PRIME_BITS + 1):
        assert math.log2(sealapi.PlainModulus.Batching(degree, bits).value()) > bits - 2.0**-5


@pytest.mark.parametrize("keys", ["public", "shared"])
def test_predicted_bfv_error_matches_measurement(keys):
    """The remaining noise budget in bits is that of the largest of many errors."""
    clients = 64
    spec = Bfv(keys=keys)
    found = bfv_ring(clients, spec.clip, spec.fractional_bits, keys)
    side = Local(spec, clients)
    server = side.server()
    zeros = np.zeros(16 * found.degree, np.int64)
    total = server.add([side.protect(zeros) for _ in range(clients)])
    left = min(
        side.keys._decryptor.invariant_noise_budget(deserialize(sealapi.Ciphertext(), side.scheme.context, one))
        for one in side.scheme.ciphertexts(total, side.fingerprint)
    )
    deviation = 3.2 * math.sqrt(clients * (1 if keys == "shared" else 1 + 4 * found.degree / 3))
    # The largest of 32,768 Gaussian values is at about 4.2 deviations.
    room = found.modulus_bits - found.plain_bits - 1 - math.log2(4.2 * deviation)
    assert left == pytest.approx(room, abs=1.1)
    assert left >= 1


# Security.


@pytest.mark.parametrize("degree", [4096, 8192, 16384, 32768])
def test_parameters_below_128_bits_are_refused(degree):
    limit = MAX_COEFFICIENT_BITS[degree]
    whole, rest = divmod(limit, 60)
    sizes = [60] * (whole - 1) + [30 + rest // 2, 30 + rest - rest // 2]
    assert sum(sizes) == limit
    Ckks(poly_modulus_degree=degree, coeff_mod_bit_sizes=tuple(sizes))
    sizes[-1] += 1
    with pytest.raises(ValueError, match="under 128 bits of security"):
        Ckks(poly_modulus_degree=degree, coeff_mod_bit_sizes=tuple(sizes))


@pytest.mark.parametrize("degree", [4096, 8192])
def test_seal_has_same_security_limit(degree):
    limit = MAX_COEFFICIENT_BITS[degree]
    one = limit // 4
    allowed = [one, one, one, limit - 3 * one]
    ts.context(ts.SCHEME_TYPE.CKKS, degree, -1, allowed, n_threads=1)
    with pytest.raises((ValueError, RuntimeError)):
        ts.context(ts.SCHEME_TYPE.CKKS, degree, -1, [*allowed[:-1], allowed[-1] + 1], n_threads=1)


@pytest.mark.parametrize("sizes", [(54,), (), (54, 19), (61, 30)])
def test_invalid_prime_chain_is_refused(sizes):
    with pytest.raises(ValueError, match="at least two primes"):
        Ckks(poly_modulus_degree=8192, coeff_mod_bit_sizes=sizes)
