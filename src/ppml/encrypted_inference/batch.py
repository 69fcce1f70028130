"""Many images at once: a ciphertext holds one pixel of each, and every weight multiplies a ciphertext."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from tenseal import sealapi

from ppml.encrypted_inference.ckks_parameters import CkksEvaluator
from ppml.encrypted_inference.network import Affine, PolynomialNetwork


def predict_batch(
    network: PolynomialNetwork, evaluator: CkksEvaluator, relin: sealapi.RelinKeys, pixels: Iterable[sealapi.Ciphertext]
) -> list[sealapi.Ciphertext]:
    """Return the encrypted logits of all images, a ciphertext a class.

    Parameters
    ----------
    network : Network
        What is evaluated.
    arithmetic : Arithmetic
        A ring of its depth.
    relin : RelinKeys
        What squares are brought back to two polynomials by.
    pixels : iterable of Ciphertext
        A ciphertext for each of ``network.pixels``, an image a slot. Each is read once and may be forgotten then.
    """
    values: Iterable[sealapi.Ciphertext] = pixels
    first, *others = network.layers
    for number, layer in enumerate([first.of(network.pixels), *others]):
        if number:
            values = _squares(values, evaluator, relin)
        values = _affine(layer, number, evaluator, values)
    return list(values)


def _squares(
    values: Iterable[sealapi.Ciphertext], evaluator: CkksEvaluator, relin: sealapi.RelinKeys
) -> Iterator[sealapi.Ciphertext]:
    for value in values:
        evaluator.square_inplace(value, relin)
        yield value


def _affine(
    layer: Affine, number: int, evaluator: CkksEvaluator, inputs: Iterable[sealapi.Ciphertext]
) -> list[sealapi.Ciphertext]:
    """Return the outputs of a map, input by input.

    Which products are formed depends on the architecture alone, not on the weights.
    """
    sums: list[sealapi.Ciphertext | None] = [None] * len(layer.weights)
    plain, product = sealapi.Plaintext(), sealapi.Ciphertext()
    for place, given in enumerate(inputs):
        for output in np.flatnonzero(layer.support[:, place]).tolist():
            evaluator.weight(float(layer.weights[output, place]), number, plain)
            evaluator.seal.multiply_plain(given, plain, product)
            total = sums[output]
            if total is None:
                sums[output], product = product, sealapi.Ciphertext()
            else:
                evaluator.seal.add_inplace(total, product)
    for total, bias in zip(sums, layer.bias, strict=True):
        evaluator.finish_inplace(total, evaluator.bias(float(bias), number))
    return sums
