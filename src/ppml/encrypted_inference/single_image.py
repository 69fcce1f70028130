"""Single-image inference: the image's values fill the slots of a few ciphertexts."""

from __future__ import annotations

from collections.abc import Sequence

from tenseal import sealapi

from ppml.encrypted_inference.ckks_parameters import CkksEvaluator
from ppml.encrypted_inference.network import PolynomialNetwork, Values
from ppml.encrypted_inference.packing import ColumnPacking, Layout, RowPacking, tile


class SingleImagePredictor:
    """A network, encoded once, that predicts one image at a time.

    Parameters
    ----------
    network : PolynomialNetwork
        The model.
    evaluator : CkksEvaluator
        Evaluator of a ring with the depth of the network.
    """

    def __init__(self, network: PolynomialNetwork, evaluator: CkksEvaluator) -> None:
        self.layout = Layout.of(network, evaluator.ring.slots)
        self._evaluator, self._seal = evaluator, evaluator.seal
        input_packing, slots = self.layout.input_packing, evaluator.ring.slots
        first, *others = network.layers
        weights = [input_packing.weights(first.weights)]
        biases = [tile(first.bias, input_packing.period, slots)]
        for place, layer in zip(self.layout.maps, others, strict=True):
            weights.append(place.weights(layer.weights))
            biases.append(place.bias(layer.bias))
        self._weights = [self._encode(rows, number) for number, rows in enumerate(weights)]
        self._biases = [evaluator.bias(bias.tolist(), number) for number, bias in enumerate(biases)]

    def _encode(self, rows: Values, number: int) -> list[sealapi.Plaintext]:
        return [self._evaluator.weight(row.tolist(), number) for row in rows]

    def predict(
        self, ciphers: Sequence[sealapi.Ciphertext], relin: sealapi.RelinKeys, galois: sealapi.GaloisKeys
    ) -> sealapi.Ciphertext:
        """Return the encrypted logits of one image, packed by :class:`~ppml.encrypted_inference.packing.Layout`."""
        products = [self._multiply(cipher, weight) for cipher, weight in zip(ciphers, self._weights[0], strict=True)]
        value = self._reduce(self._sum(products), self.layout.input_packing.reduction_rotations(), 0, galois)
        for number, place in enumerate(self.layout.maps, start=1):
            self._evaluator.square_inplace(value, relin)
            match place:
                case RowPacking():
                    total = self._by_rows(value, place, number, galois)
                case ColumnPacking():
                    total = self._by_columns(value, number, galois)
            value = self._reduce(total, place.reduction_rotations(), number, galois)
        return value

    def _by_rows(
        self, value: sealapi.Ciphertext, rows: RowPacking, number: int, galois: sealapi.GaloisKeys
    ) -> sealapi.Ciphertext:
        rotated = [self._rotate(value, step, galois) if step else value for step in rows.rotations()]
        return self._sum(
            [self._multiply(one, weight) for one, weight in zip(rotated, self._weights[number], strict=True)]
        )

    def _by_columns(self, value: sealapi.Ciphertext, number: int, galois: sealapi.GaloisKeys) -> sealapi.Ciphertext:
        """Return each output's products in neighbouring slots: each output is rotated by its number of slots."""
        products = [self._multiply(value, weight) for weight in self._weights[number]]
        total = products.pop()
        while products:
            total = self._rotate(total, -1, galois)
            self._seal.add_inplace(total, products.pop())
        return total

    def _reduce(
        self, total: sealapi.Ciphertext, steps: Sequence[int], number: int, galois: sealapi.GaloisKeys
    ) -> sealapi.Ciphertext:
        """Return the sums over slots with the bias added.

        The rotations come before the division by a prime, which makes their error small.
        """
        for step in steps:
            self._seal.add_inplace(total, self._rotate(total, step, galois))
        self._evaluator.finish_inplace(total, self._biases[number])
        return total

    def _multiply(self, cipher: sealapi.Ciphertext, weight: sealapi.Plaintext) -> sealapi.Ciphertext:
        product = sealapi.Ciphertext()
        self._seal.multiply_plain(cipher, weight, product)
        return product

    def _sum(self, products: list[sealapi.Ciphertext]) -> sealapi.Ciphertext:
        total = products[0]
        for product in products[1:]:
            self._seal.add_inplace(total, product)
        return total

    def _rotate(self, cipher: sealapi.Ciphertext, step: int, galois: sealapi.GaloisKeys) -> sealapi.Ciphertext:
        rotated = sealapi.Ciphertext()
        self._seal.rotate_vector(cipher, step, galois, rotated)
        return rotated
