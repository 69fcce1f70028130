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

    A coefficient of the encoded sum is at most ``clients * clip * 2^scale_bits`` and must stay under half the modulus.
    """
    return data_bits - 1 - (math.log2(clients * clip) + scale_bits + _ROUNDING)


def ckks_error(clients: int, scale_bits: int, degree: int) -> float:
    """Return the standard deviation of one value in a decrypted sum of ``clients`` fresh public-key ciphertexts.

    After encryption SEAL divides by the last prime, which leaves a rounding error ``e0 + e1 s`` with ``e`` uniform in
    half a unit and ``s`` ternary with ``2N/3`` entries: variance ``(1 + 2N/3) / 12`` a coefficient, to which the
    encoder's own rounding adds 1/12. One real slot sums ``N`` coefficients times points of the unit circle: ``N/2``
    times that variance.
    """
    coefficient_variance = (2 + 2 * degree / 3) / 12
    return math.sqrt(clients * coefficient_variance * degree / 2) / 2.0**scale_bits


def ckks_precision_sigmas(clients: int, fractional_bits: int, scale_bits: int, degree: int) -> float:
    """Return half a grid step in standard deviations of the error: beyond 8 a wrong rounding is out of the question."""
    return 2.0 ** -(fractional_bits + 1) / ckks_error(clients, scale_bits, degree)


_ROUNDING = 2.0**-20
"""Allowance for values that rounding lifts onto the next grid point."""
