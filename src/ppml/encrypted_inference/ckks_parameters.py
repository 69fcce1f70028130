"""Rings of CKKS that are just deep enough for a network, and arithmetic in them."""

from __future__ import annotations

from dataclasses import dataclass

from tenseal import sealapi

from ppml.aggregation.lattice import seal_context as checked_ring
from ppml.config.aggregation_parameters import MAX_COEFFICIENT_BITS

OUTER_BITS, INNER_BITS = 34, 30
"""Of the first and the last prime, and of those between, each of which is one multiplication."""
SCALE = 2.0**INNER_BITS
"""What values are multiplied by before they are rounded to whole coefficients."""
LOGIT_SCALE = 2.0 ** (INNER_BITS - 5)
"""The same of logits, of which one prime is left: room for larger ones, at less precision."""
MAX_LOGIT = 2.0 ** (OUTER_BITS - 2) / LOGIT_SCALE
"""Twice as much would wrap round the last prime."""


@dataclass(frozen=True)
class Ring:
    """The ring for so many affine maps with squares between them.

    Parameters
    ----------
    maps : int
        Each is one multiplication, and each square between two is one.
    """

    maps: int

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of the primes; the last is for switching keys."""
        return (OUTER_BITS, *[INNER_BITS] * (2 * self.maps - 1), OUTER_BITS)

    @property
    def degree(self) -> int:
        """The smallest ring that has 128 bits of security with these primes.

        Raises
        ------
        ValueError
            There is none.
        """
        for degree, most in MAX_COEFFICIENT_BITS.items():
            if sum(self.bits) <= most:
                return degree
        raise ValueError(f"{self.maps} maps need {sum(self.bits)} bits, more than any ring has")

    @property
    def slots(self) -> int:
        """Values in a ciphertext."""
        return self.degree // 2

    def power(self, step: int) -> int:
        """Return the power of the roots that rotates by ``step`` slots to the left."""
        return pow(3, step % self.slots, 2 * self.degree)

    def context(self) -> sealapi.SEALContext:
        """Return the ring, checked to give 128 bits of security."""
        return checked_ring(sealapi.SCHEME_TYPE.CKKS, self.degree, self.bits)


class Level:
    """Ciphertexts from which so many primes have been divided away.

    Parameters
    ----------
    data : ContextData
        SEAL's view of the level.

    Attributes
    ----------
    last : int
        The prime that is divided away next.
    """

    def __init__(self, data: sealapi.SEALContext.ContextData) -> None:
        self.parms_id = data.parms_id()
        self.last = int(data.parms().coeff_modulus()[-1].value())


class CkksEvaluator:
    """What a server does with ciphertexts, without a secret key.

    Parameters
    ----------
    ring : Ring
        Where ciphertexts live.
    """

    def __init__(self, seal_context: Ring) -> None:
        self.ring = seal_context
        self.context = seal_context.context()
        self.seal = sealapi.Evaluator(self.context)
        self._encoder = sealapi.CKKSEncoder(self.context)
        self.levels = []
        data = self.context.first_context_data()
        while data is not None:
            self.levels.append(Level(data))
            data = data.next_context_data()
        self.weight_scales, self.product_scales = self._scales()

    def _scales(self) -> tuple[list[float], list[float]]:
        """Return at which scale the weights of each map are encoded so that its result has the scale wanted; and both.

        Each division takes a prime away that is near a power of two, but none.
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
        """Return a weight of map ``number``, the same in all slots, or one a slot, ready to multiply.

        SEAL refuses to multiply by 0. What would be rounded to it, such as the weights of a unit that died in training,
        is taken as the smallest value there is.
        """
        plain = plain or sealapi.Plaintext()
        parms_id, scale = self.levels[2 * number].parms_id, self.weight_scales[number]
        self._encoder.encode(values, parms_id, scale, plain)
        if plain.is_zero():
            self._encoder.encode(1 / scale, parms_id, scale, plain)
        return plain

    def bias(self, values: float | list[float], number: int) -> sealapi.Plaintext:
        """Return what is added to the products of map ``number``."""
        plain = sealapi.Plaintext()
        self._encoder.encode(values, self.levels[2 * number].parms_id, self.product_scales[number], plain)
        return plain

    def finish_inplace(self, products: sealapi.Ciphertext, bias: sealapi.Plaintext) -> None:
        """Add the bias to ``products``, and go to the next level."""
        self.seal.add_plain_inplace(products, bias)
        self.seal.rescale_to_next_inplace(products)

    def square_inplace(self, cipher: sealapi.Ciphertext, relin: sealapi.RelinKeys) -> None:
        """Square ``cipher``, and go to the next level."""
        self.seal.square_inplace(cipher)
        self.seal.relinearize_inplace(cipher, relin)
        self.seal.rescale_to_next_inplace(cipher)
