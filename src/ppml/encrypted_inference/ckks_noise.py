"""Errors of CKKS in SEAL's implementation, as variances of the real part of a slot.

A slot is the value of a polynomial of ``N`` coefficients at a root ``z``. Independent errors of variance ``v`` in the
coefficients give ``N v / 2`` in the real part, and as much in the imaginary part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppml.encrypted_inference.ckks_parameters import LOGIT_SCALE, SCALE, Ring
from ppml.encrypted_inference.network import Values

KEY_ERROR = 10.5
"""Variance of a coefficient of SEAL's errors: a centred binomial of 21 bits on either side."""
ROUNDING = 1 / 12
"""Variance of rounding to an integer."""
KEY_TAIL_FACTOR = 20.0
"""Factor on the mean variance of errors that the key multiplies. The variance in a slot is the mean times the squared
value of the key there, which is about exponential: one of 4,096 slots exceeds 20 with one key in 100,000.
"""


@dataclass(frozen=True)
class CkksNoise:
    """Errors in a ring, for a key with a factor of ``KEY_TAIL_FACTOR``.

    Parameters
    ----------
    ring : Ring
        Ring of the ciphertexts.
    """

    ring: Ring

    def fresh(self) -> float:
        """Return the variance of an encrypted pixel: the encryption error and the rounding of the encoder."""
        return self._in_slots(KEY_ERROR + ROUNDING) / SCALE**2

    def encoding_of_vector(self, number: int) -> float:
        """Return the variance of a weight of map ``number`` if each slot has its own.

        The coefficients of real slots are symmetric, and so are their roundings: the whole error is real.
        """
        return float(2 * self._in_slots(ROUNDING) / self._weight_scale(number) ** 2)

    def encoding_of_scalar(self, number: int) -> float:
        """Return the variance of a weight of map ``number`` that all slots share: one coefficient is rounded."""
        return ROUNDING / self._weight_scale(number) ** 2

    def division(self, number: int) -> float:
        """Return the variance of the division by a prime after map ``number``."""
        return self._of_division() / self._result_scale(number) ** 2

    def division_of_square(self) -> float:
        """Return the variance of the division by a prime after a square."""
        return self._of_division() / SCALE**2

    def key_switching(self, number: int) -> Values:
        """Return the variance in each slot of a rotation of the inputs of map ``number``.

        SEAL multiplies the digits of a polynomial, its residues modulo each prime ``q``, by errors and divides by the
        last prime. A digit is uniform from 0 to ``q``: it has the variance ``q^2 / 12`` in each coefficient. Its mean
        is a polynomial of equal coefficients, whose value ``q / (1 - z)`` is large at roots near 1, above all in slot
        0.
        """
        degree = self.ring.degree
        *primes, last = (2.0**bits for bits in self.ring.bits)
        digits = sum((prime / last) ** 2 for prime in primes[: len(primes) - 2 * number])
        powers = np.array([pow(3, slot, 2 * degree) for slot in range(self.ring.slots)])
        from_one = 4 * np.sin(np.pi * powers / (2 * degree)) ** 2
        of_digits = digits * KEY_ERROR * (degree**2 * ROUNDING / 2 + degree / (2 * from_one))
        variance: Values = (KEY_TAIL_FACTOR * of_digits + self._of_division()) / SCALE**2
        return variance

    def _of_division(self) -> float:
        """Return the variance of two roundings, one of them times a ternary key of ``2N / 3`` entries."""
        return self._in_slots(ROUNDING * (1 + KEY_TAIL_FACTOR * 2 * self.ring.degree / 3))

    def _in_slots(self, coefficient: float) -> float:
        return self.ring.degree / 2 * coefficient

    def _result_scale(self, number: int) -> float:
        return LOGIT_SCALE if number == self.ring.maps - 1 else SCALE

    def _weight_scale(self, number: int) -> float:
        # Primes are close enough to powers of two.
        return self._result_scale(number)
