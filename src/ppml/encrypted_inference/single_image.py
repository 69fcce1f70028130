"""One image at a time: its values fill the slots of a few ciphertexts."""

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
    network : Network
        What is evaluated.
    arithmetic : Arithmetic
        A ring of its depth.
    """

    def __init__(self, network: PolynomialNetwork, evaluator: CkksEvaluator) -> None:
        self.layout = Layout.of(network, evaluator.ring.slots)
        self._arithmetic, self._evaluator = evaluator, evaluator.seal
        input_packing, slots = self.layout.input_packing, evaluator.ring.slots
        first, *others = network.layers
        weights = [input_packing.weights(first.weights)]
        biases = [tile(first.bias, input_packing.period, slots)]
        for place, layer in zip(self.layout.maps, others, strict=True):
            weights.append(place.weights(layer.weights))
            biases.append(place.bias(layer.bias))
        self._weights = [self._encoded(rows, number) for number, rows in enumerate(weights)]
        self._biases = [evaluator.bias(bias.tolist(), number) for number, bias in enumerate(biases)]

    def _encoded(self, rows: Values, number: int) -> list[sealapi.Plaintext]:
        return [self._arithmetic.weight(row.tolist(), number) for row in rows]

    def predict(
        self, ciphers: Sequence[sealapi.Ciphertext], relin: sealapi.RelinKeys, galois: sealapi.GaloisKeys
    ) -> sealapi.Ciphertext:
        """Return the encrypted logits of one image, packed as in :class:`~ppml.encrypted_inference.packing.InputPacking`."""
        products = [self._times(cipher, weight) for cipher, weight in zip(ciphers, self._weights[0], strict=True)]
        value = self._finished(self._total(products), self.layout.input_packing.reduction_rotations(), 0, galois)
        for number, place in enumerate(self.layout.maps, start=1):
            self._arithmetic.square_inplace(value, relin)
            match place:
                case RowPacking():
                    total = self._by_rows(value, place, number, galois)
                case ColumnPacking():
                    total = self._by_columns(value, number, galois)
            value = self._finished(total, place.reduction_rotations(), number, galois)
        return value

    def _by_rows(
        self, value: sealapi.Ciphertext, rows: RowPacking, number: int, galois: sealapi.GaloisKeys
    ) -> sealapi.Ciphertext:
        turned = [self._rotated(value, turn, galois) if turn else value for turn in rows.rotations()]
        return self._total(
            [self._times(one, weight) for one, weight in zip(turned, self._weights[number], strict=True)]
        )

    def _by_columns(self, value: sealapi.Ciphertext, number: int, galois: sealapi.GaloisKeys) -> sealapi.Ciphertext:
        """Return each output's products beside each other: the last is moved on by one slot for each before it."""
        products = [self._times(value, weight) for weight in self._weights[number]]
        total = products.pop()
        while products:
            total = self._rotated(total, -1, galois)
            self._evaluator.add_inplace(total, products.pop())
        return total

    def _finished(
        self, total: sealapi.Ciphertext, reduction_rotations: Sequence[int], number: int, galois: sealapi.GaloisKeys
    ) -> sealapi.Ciphertext:
        """Return the sums over slots with the bias added.

        Rotations come before the division by a prime, which makes their error small, too.
        """
        for step in reduction_rotations:
            self._evaluator.add_inplace(total, self._rotated(total, step, galois))
        self._arithmetic.finish_inplace(total, self._biases[number])
        return total

    def _times(self, cipher: sealapi.Ciphertext, weight: sealapi.Plaintext) -> sealapi.Ciphertext:
        product = sealapi.Ciphertext()
        self._evaluator.multiply_plain(cipher, weight, product)
        return product

    def _total(self, products: list[sealapi.Ciphertext]) -> sealapi.Ciphertext:
        total = products[0]
        for product in products[1:]:
            self._evaluator.add_inplace(total, product)
        return total

    def _rotated(self, cipher: sealapi.Ciphertext, step: int, galois: sealapi.GaloisKeys) -> sealapi.Ciphertext:
        turned = sealapi.Ciphertext()
        self._evaluator.rotate_vector(cipher, step, galois, turned)
        return turned
