"""CKKS rings with the depth of a network, and arithmetic in them."""

from __future__ import annotations

from dataclasses import dataclass

from tenseal import sealapi

from ppml.aggregation.lattice import seal_context as checked_ring
from ppml.aggregation_parameters import MAX_COEFFICIENT_BITS

OUTER_BITS, INNER_BITS = 34, 30
"""Bits of the first and the last prime, and of each prime between, one per multiplication."""
SCALE = 2.0**INNER_BITS
"""Scale of values before they are rounded to integer coefficients."""
LOGIT_SCALE = 2.0 ** (INNER_BITS - 5)
"""Scale of logits, which have one prime left: a larger range, at less precision."""
MAX_LOGIT = 2.0 ** (OUTER_BITS - 2) / LOGIT_SCALE
"""Largest logit; twice this value would wrap around the last prime."""


@dataclass(frozen=True)
class Ring:
    """The ring for a number of affine maps with squares between them.

    Parameters
    ----------
    maps : int
        Number of maps; each map and each square between two maps is one multiplication.
    """

    maps: int

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of the primes; the last prime is for key switching."""
        return (OUTER_BITS, *[INNER_BITS] * (2 * self.maps - 1), OUTER_BITS)

    @property
    def degree(self) -> int:
        """The smallest degree with 128 bits of security for these primes.

        Raises
        ------
        ValueError
            No ring is large enough.
        """
        for degree, most in MAX_COEFFICIENT_BITS.items():
            if sum(self.bits) <= most:
                return degree
        raise ValueError(f"{self.maps} maps need {sum(self.bits)} bits, more than any ring has")

    @property
    def slots(self) -> int:
        """Number of values in a ciphertext."""
        return self.degree // 2

    def power(self, step: int) -> int:
        """Return the power of the roots that rotates left by ``step`` slots."""
        return pow(3, step % self.slots, 2 * self.degree)

    def context(self) -> sealapi.SEALContext:
        """Return SEAL's context, checked for 128 bits of security."""
        return checked_ring(sealapi.SCHEME_TYPE.CKKS, self.degree, self.bits)


class Level:
    """A level of ciphertexts, given by the number of divisions.

    Parameters
    ----------
    data : ContextData
        SEAL's data of the level.

    Attributes
    ----------
    last : int
        The prime of the next division.
    """

    def __init__(self, data: sealapi.SEALContext.ContextData) -> None:
        self.parms_id = data.parms_id()
        self.last = int(data.parms().coeff_modulus()[-1].value())


class CkksEvaluator:
    """Server-side arithmetic on ciphertexts, without a secret key.

    Parameters
    ----------
    ring : Ring
        Ring of the ciphertexts.
    """

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.context = ring.context()
        self.seal = sealapi.Evaluator(self.context)
        self._encoder = sealapi.CKKSEncoder(self.context)
        self.levels = []
        data = self.context.first_context_data()
        while data is not None:
            self.levels.append(Level(data))
            data = data.next_context_data()
        self.weight_scales, self.product_scales = self._scales()

    def _scales(self) -> tuple[list[float], list[float]]:
        """Return the scales of each map's weights, chosen for the target scale of its result, and of its products.

        Each division removes a prime that is close, but not equal, to a power of two.
        """
        scale, weights, products = SCALE, [], []
        for number in range(self.ring.maps):
            before = self.levels[2 * number].last
            wanted = LOGIT_SCALE if number == self.ring.maps - 1 else SCALE
            weights.append(wanted * before / scale)
            products.append(scale * weights[-1])
            scale = products[-1] / before
            if number < self.ring.maps - 1:
                scale = scale * scale / self.levels[2 * number + 1].last
        return weights, products

    def weight(
        self, values: float | list[float], number: int, plain: sealapi.Plaintext | None = None
    ) -> sealapi.Plaintext:
        """Encode a weight of map ``number``, the same in all slots or one per slot.

        SEAL refuses to multiply by 0. A weight that would be rounded to 0, such as those of a dead unit, is replaced by
        the smallest encodable value.
        """
        plain = plain or sealapi.Plaintext()
        parms_id, scale = self.levels[2 * number].parms_id, self.weight_scales[number]
        self._encoder.encode(values, parms_id, scale, plain)
        if plain.is_zero():
            self._encoder.encode(1 / scale, parms_id, scale, plain)
        return plain

    def bias(self, values: float | list[float], number: int) -> sealapi.Plaintext:
        """Encode the bias of map ``number`` at the scale of its products."""
        plain = sealapi.Plaintext()
        self._encoder.encode(values, self.levels[2 * number].parms_id, self.product_scales[number], plain)
        return plain

    def finish_inplace(self, products: sealapi.Ciphertext, bias: sealapi.Plaintext) -> None:
        """Add the bias to ``products``, and divide by a prime."""
        self.seal.add_plain_inplace(products, bias)
        self.seal.rescale_to_next_inplace(products)

    def square_inplace(self, cipher: sealapi.Ciphertext, relin: sealapi.RelinKeys) -> None:
        """Square ``cipher``, relinearize, and divide by a prime."""
        self.seal.square_inplace(cipher)
        self.seal.relinearize_inplace(cipher, relin)
        self.seal.rescale_to_next_inplace(cipher)
