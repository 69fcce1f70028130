"""Rings of CKKS that are just deep enough for a network, and arithmetic in them."""

from __future__ import annotations

from dataclasses import dataclass

from tenseal import sealapi

from ppml.aggregation.capacity import MAX_COEFFICIENT_BITS
from ppml.aggregation.lattice import ring

OUTER_BITS, INNER_BITS = 34, 30
"""Of the first and the last prime, and of those between, each of which is one multiplication."""
SCALE = 2.0**INNER_BITS
"""What values are multiplied by before they are rounded to whole coefficients."""
LOGIT_SCALE = 2.0 ** (INNER_BITS - 5)
"""The same of logits, of which one prime is left: room for larger ones, at less precision."""
LARGEST_LOGIT = 2.0 ** (OUTER_BITS - 2) / LOGIT_SCALE
"""Twice as much would wrap round the last prime."""


@dataclass(frozen=True)
class Depth:
    """A ring for so many affine maps with squares between them.

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

    def context(self) -> sealapi.SEALContext:
        """Return the ring, checked to give 128 bits of security."""
        return ring(sealapi.SCHEME_TYPE.CKKS, self.degree, self.bits)


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


class Arithmetic:
    """What a server does with ciphertexts, without a secret key.

    Parameters
    ----------
    depth : Depth
        The ring.
    """

    def __init__(self, depth: Depth) -> None:
        self.depth = depth
        self.context = depth.context()
        self.evaluator = sealapi.Evaluator(self.context)
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
        for number in range(self.depth.maps):
            before = self.levels[2 * number].last
            wanted = LOGIT_SCALE if number == self.depth.maps - 1 else SCALE
            weights.append(wanted * before / scale)
            products.append(scale * weights[-1])
            scale = products[-1] / before
            if number < self.depth.maps - 1:
                scale = scale * scale / self.levels[2 * number + 1].last
        return weights, products

    def weight(self, values: float | list[float], number: int, plain: sealapi.Plaintext | None = None) -> object:
        """Return a weight of map ``number``, the same in all slots, or one a slot, ready to multiply."""
        plain = plain or sealapi.Plaintext()
        self._encoder.encode(values, self.levels[2 * number].parms_id, self.weight_scales[number], plain)
        return plain

    def bias(self, values: float | list[float], number: int) -> object:
        """Return what is added to the products of map ``number``."""
        plain = sealapi.Plaintext()
        self._encoder.encode(values, self.levels[2 * number].parms_id, self.product_scales[number], plain)
        return plain

    def finish(self, products: sealapi.Ciphertext, bias: object) -> sealapi.Ciphertext:
        """Return ``products`` with the bias added, at the next level."""
        self.evaluator.add_plain_inplace(products, bias)
        self.evaluator.rescale_to_next_inplace(products)
        return products

    def square(self, cipher: sealapi.Ciphertext, relin: sealapi.RelinKeys) -> sealapi.Ciphertext:
        """Return the square of ``cipher``, at the next level."""
        self.evaluator.square_inplace(cipher)
        self.evaluator.relinearize_inplace(cipher, relin)
        self.evaluator.rescale_to_next_inplace(cipher)
        return cipher
