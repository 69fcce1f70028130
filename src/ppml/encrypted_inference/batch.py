"""Batched inference: a ciphertext holds one pixel of each image, and every weight multiplies a ciphertext."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from tenseal import sealapi

from ppml.encrypted_inference.ckks_parameters import CkksEvaluator
from ppml.encrypted_inference.network import Affine, PolynomialNetwork


def predict_batch(
    network: PolynomialNetwork, evaluator: CkksEvaluator, relin: sealapi.RelinKeys, pixels: Iterable[sealapi.Ciphertext]
) -> list[sealapi.Ciphertext]:
    """Return the encrypted logits of all images, one ciphertext per class.

    Parameters
    ----------
    network : PolynomialNetwork
        The model.
    evaluator : CkksEvaluator
        Evaluator of a ring with the depth of the network.
    relin : RelinKeys
        Relinearization keys for squares.
    pixels : iterable of Ciphertext
        One ciphertext per entry of ``network.pixels``, one image per slot. Each is read once.
    """
    values: Iterable[sealapi.Ciphertext] = pixels
    first, *others = network.layers
    for number, layer in enumerate([first.select_inputs(network.pixels), *others]):
        if number:
            values = _square(values, evaluator, relin)
        values = _apply_affine(layer, number, evaluator, values)
    return list(values)


def _square(
    values: Iterable[sealapi.Ciphertext], evaluator: CkksEvaluator, relin: sealapi.RelinKeys
) -> Iterator[sealapi.Ciphertext]:
    for value in values:
        evaluator.square_inplace(value, relin)
        yield value


def _apply_affine(
    layer: Affine, number: int, evaluator: CkksEvaluator, inputs: Iterable[sealapi.Ciphertext]
) -> list[sealapi.Ciphertext]:
    """Return the outputs of a map, input by input.

    The set of products depends on the architecture only, not on the weights.
    """
    sums: list[sealapi.Ciphertext | None] = [None] * len(layer.weights)
    plain, product = sealapi.Plaintext(), sealapi.Ciphertext()
    for place, cipher in enumerate(inputs):
        for output in np.flatnonzero(layer.support[:, place]).tolist():
            evaluator.weight(float(layer.weights[output, place]), number, plain)
            evaluator.seal.multiply_plain(cipher, plain, product)
            total = sums[output]
            if total is None:
                sums[output], product = product, sealapi.Ciphertext()
            else:
                evaluator.seal.add_inplace(total, product)
    for total, bias in zip(sums, layer.bias, strict=True):
        evaluator.finish_inplace(total, evaluator.bias(float(bias), number))
    return sums
