"""Limits of an aggregation, checked before training: overflow of sums, precision, encryption parameters.

It is no part of :mod:`ppml.config`, which no code digest counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_COEFFICIENT_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Largest log2 of the coefficient modulus for 128 bits of classical security, by the standard of 2018 that SEAL checks.

The guidelines of 2024 (ePrint 2024/463, table 5.2) have 26, 53, 106, 214, 430 and 868: by them, a ring with the largest
modulus is a few bits short of 128.
"""

MAX_PRIME_BITS = 60
"""Largest bit length of a prime in SEAL."""


def clients_per_round(participation: float, clients: int) -> int:
    """Return the number of clients that the server samples per round, out of ``clients``."""
    return max(1, round(participation * clients))


def masking_threshold(threshold: int | None, clients: int) -> int:
    """Return the number of clients that can unmask a sum; by default two thirds of ``clients`` plus one."""
    return threshold or 2 * clients // 3 + 1


def max_grid_value(clip: float, fractional_bits: int) -> int:
    """Return the largest value of an update in grid steps."""
    return int(clip / 2.0**-fractional_bits + 0.5)


def plaintext_headroom_bits(clients: int, clip: float, fractional_bits: int) -> float:
    """Return the free bits of a signed 64-bit integer with the sum of ``clients`` clipped updates."""
    return 63 - (math.log2(clients * clip) + fractional_bits + _ROUNDING)


def ckks_headroom_bits(clients: int, clip: float, scale_bits: int, data_bits: int) -> float:
    """Return the free bits of a ciphertext with the sum, for data primes of ``data_bits`` bits in total.

    A slot holds two values, as a complex number of at most ``sqrt(2) * clip``. A coefficient of the encoded sum is at
    most ``clients * sqrt(2) * clip * 2^scale_bits`` and must stay under half the modulus, for which SEAL takes primes
    somewhat below ``2^bits``. SEAL's encoder requires one more bit for a single update.

    The encoder computes in float64, with an error of about ``2^-50`` of the largest value. ``_FLOAT64`` keeps it well
    under half a grid step for every grid that passes :func:`ckks_precision_sigmas`.
    """
    room = min(data_bits - 1 - _PRIMES, _FLOAT64)
    return room - (math.log2(max(clients, 2) * math.sqrt(2) * clip) + scale_bits)


def ckks_error(clients: int, scale_bits: int, degree: int) -> float:
    """Return the standard deviation of one value in a decrypted sum of ``clients`` fresh public-key ciphertexts.

    After encryption SEAL divides by the last prime, which leaves a rounding error ``e0 + e1 s`` with ``e`` uniform in
    half a unit and ``s`` ternary with ``2N/3`` entries: variance ``(1 + 2N/3) / 12`` per coefficient, to which the
    encoder's own rounding adds 1/12. The real part of a slot sums ``N`` coefficients times points of the unit circle,
    and so does the imaginary part: ``N/2`` times that variance, on average over the slots; see
    :func:`ckks_precision_sigmas`. Ciphertexts under the secret key have a smaller error, because SEAL does not divide
    them.
    """
    coefficient_variance = (2 + 2 * degree / 3) / 12
    return math.sqrt(clients * coefficient_variance * degree / 2) / 2.0**scale_bits


def ckks_precision_sigmas(clients: int, fractional_bits: int, scale_bits: int, degree: int) -> float:
    """Return half a grid step in standard deviations of the error of a bad slot; at least 8 are required.

    Under one key the error ``e1 s`` of a slot is Gaussian, with a variance proportional to the square of ``s`` there,
    which is exponentially distributed over slots and keys: together a Laplace distribution. A slot is worse than
    ``_BAD_SLOT`` times the average with probability ``e^-16``, and the error exceeds 8 of its deviations, 32 of the
    average, with probability ``exp(-32 sqrt(2))``, about 2e-20 per value.
    """
    return 2.0 ** -(fractional_bits + 1) / (_BAD_SLOT * ckks_error(clients, scale_bits, degree))


@dataclass(frozen=True)
class BfvRing:
    """BFV parameters for sums of updates, with 128 bits of security.

    Parameters
    ----------
    degree : int
        Ring dimension; values per ciphertext.
    plain_bits, modulus_bits : int
        Bit lengths of the plaintext modulus, and of the ciphertext modulus; both are primes.
    """

    degree: int
    plain_bits: int
    modulus_bits: int


def bfv_plain_bits(clients: int, clip: float, fractional_bits: int) -> int:
    """Return the bit length of a prime whose half exceeds every sum of ``clients`` clipped updates.

    Such primes are 1 modulo twice the degree, so that the largest of a bit length may be somewhat below a power of 2.
    """
    largest = clients * round(clip * 2.0**fractional_bits)
    return max(_MIN_PLAIN_BITS, math.ceil(math.log2(2 * largest + 1) + _BFV_PRIMES))


def bfv_ring(clients: int, clip: float, fractional_bits: int, keys: str) -> BfvRing:
    """Return the smallest ring with one prime for sums of ``clients`` clipped updates.

    A sum decrypts exactly if its error is below ``q / (2 t)``, with ``q`` the ciphertext modulus and ``t`` the
    plaintext modulus. An update adds to the error a rounding of at most 1/2 and, in each coefficient, ``e`` under the
    secret key and ``e u + e' + e'' s`` under the public one, with ``e`` of deviation 3.2 and ``u`` and ``s`` ternary: a
    variance of ``3.2^2 (1 + 4N/3)``. The sum is nearly Gaussian, and exceeds ``_BFV_TAIL`` deviations with
    probability below 10^-32.

    Raises
    ------
    OverflowError
        No ring is large enough; the message gives the missing bits.
    """
    plain = bfv_plain_bits(clients, clip, fractional_bits)
    for degree in (2048, 4096):
        variance = _SEAL_DEVIATION**2 * (1 if keys == "shared" else 1 + 4 * degree / 3)
        error = _BFV_TAIL * math.sqrt(clients * variance) + clients / 2
        modulus = math.ceil(plain + 1 + math.log2(error) + _BFV_PRIMES)
        if modulus <= min(MAX_COEFFICIENT_BITS[degree], MAX_PRIME_BITS):
            return BfvRing(degree, plain, modulus)
    raise OverflowError(f"{modulus - MAX_PRIME_BITS} bits more than the {MAX_PRIME_BITS} of one prime")


_SEAL_DEVIATION = 3.2
"""Standard deviation of SEAL's errors."""

_BFV_TAIL = 12.0
"""Tolerated error of a sum, in standard deviations."""

_BFV_PRIMES = 2.0**-5
"""Largest distance in bits of a prime of at least ``_MIN_PLAIN_BITS`` bits from a power of 2."""

_MIN_PLAIN_BITS = 24

_ROUNDING = 2.0**-20
"""Allowance for values that rounding lifts onto the next grid point."""

_PRIMES = 0.5
"""Largest distance in bits of the data primes' product from a power of 2: they are 1 modulo 2N."""

_BAD_SLOT = 4.0
"""Standard deviation of the error in a bad slot, as a multiple of the average over slots."""

_FLOAT64 = 62.0
"""Largest log2 of an encoded sum. A grid that passes has ``fractional_bits <= scale_bits - 15``."""
