"""What fits: how large a sum may grow, and how much error its encryption may add. Checked before training."""

from __future__ import annotations

import math

MAX_COEFFICIENT_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Largest log2 of the coefficient modulus for 128 bits of classical security (homomorphicencryption.org standard)."""


def plaintext_headroom_bits(clients: int, clip: float, fractional_bits: int) -> float:
    """Return how many bits the sum of ``clients`` clipped updates leaves free in a signed 64-bit integer."""
    return 63 - (math.log2(clients * clip) + fractional_bits + _ROUNDING)


def ckks_headroom_bits(clients: int, clip: float, scale_bits: int, data_bits: int) -> float:
    """Return how many bits the sum leaves free in a ciphertext whose data primes have ``data_bits`` bits.

    A coefficient of the encoded sum is at most ``clients * clip * 2^scale_bits`` and must stay under half the modulus,
    for which SEAL takes primes somewhat below ``2^bits``. Of a single update SEAL's encoder asks for one bit more.

    The encoder calculates in float64, with an error of about ``2^-50`` of the largest value. ``_FLOAT64`` keeps it well
    under half a grid step for every grid that :func:`ckks_precision_sigmas` lets pass.
    """
    room = min(data_bits - 1 - _PRIMES, _FLOAT64)
    return room - (math.log2(max(clients, 2) * clip) + scale_bits)


def ckks_error(clients: int, scale_bits: int, degree: int) -> float:
    """Return the standard deviation of one value in a decrypted sum of ``clients`` fresh public-key ciphertexts.

    After encryption SEAL divides by the last prime, which leaves a rounding error ``e0 + e1 s`` with ``e`` uniform in
    half a unit and ``s`` ternary with ``2N/3`` entries: variance ``(1 + 2N/3) / 12`` a coefficient, to which the
    encoder's own rounding adds 1/12. One real slot sums ``N`` coefficients times points of the unit circle: ``N/2``
    times that variance, on average over the slots: see :func:`ckks_precision_sigmas`.
    """
    coefficient_variance = (2 + 2 * degree / 3) / 12
    return math.sqrt(clients * coefficient_variance * degree / 2) / 2.0**scale_bits


def ckks_precision_sigmas(clients: int, fractional_bits: int, scale_bits: int, degree: int) -> float:
    """Return half a grid step in standard deviations of the error of a bad slot; at least 8 are called for.

    Under one key the error ``e1 s`` of a slot is Gaussian, with a variance that goes with the square of ``s`` there,
    which is exponentially distributed over slots and keys: together a Laplace distribution. A slot is worse than
    ``_BAD_SLOT`` times the average with probability ``e^-16``, and 8 of its deviations, 32 of the average, are exceeded
    with probability ``exp(-32 sqrt(2))``, about 2e-20 a value.
    """
    return 2.0 ** -(fractional_bits + 1) / (_BAD_SLOT * ckks_error(clients, scale_bits, degree))


_ROUNDING = 2.0**-20
"""Allowance for values that rounding lifts onto the next grid point."""

_PRIMES = 0.5
"""Bits that the product of the data primes may lack: they are 1 modulo 2N, so small ones lie below a power of 2."""

_BAD_SLOT = 4.0
"""Deviation of the error in a bad slot, in units of the average over slots."""

_FLOAT64 = 62.0
"""Largest log2 of an encoded sum. A grid that passes has ``fractional_bits <= scale_bits - 15``."""
