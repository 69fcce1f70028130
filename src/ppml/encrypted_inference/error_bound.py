"""Bounds of the error of decrypted logits.

Errors are taken as independent with mean 0, as is usual (Costache et al., ePrint 2022/162). An affine map applies its
squared weights to the variances, and adds the error of its encoded weights times its inputs. A square multiplies an
error by twice the value. Batches and single images have separate bounds: a weight that all slots share is encoded
nearly exactly, a vector of weights is not, and unused slots of a single image have errors, too.
"""

from __future__ import annotations

import numpy as np

from ppml.encrypted_inference.ckks_noise import CkksNoise
from ppml.encrypted_inference.ckks_parameters import Ring
from ppml.encrypted_inference.network import PolynomialNetwork, Values
from ppml.encrypted_inference.packing import Layout
from ppml.encrypted_inference.slot_error import predict_slots

DEVIATIONS = 7.0
"""The bound in standard deviations: a normal value exceeds it once in 4e11."""


def batch_bound(network: PolynomialNetwork, images: Values) -> Values:
    """Return a bound of the logits' error for each of ``images``, ``(n, pixels)``, in a batch: ``(n,)``."""
    noise = CkksNoise(Ring(len(network.layers)))
    values, variance = images, np.full_like(images, noise.fresh())
    for number, layer in enumerate(network.layers):
        of_encoding = noise.encoding_of_scalar(number) * (values**2 @ layer.support.T.astype(np.float64))
        variance = variance @ (layer.weights**2).T + of_encoding + noise.division(number)
        values = layer(values)
        if number < len(network.layers) - 1:
            # The division follows the key switching and makes its error negligible.
            values, variance = values**2, 4 * values**2 * variance + noise.division_of_square()
    bound: Values = DEVIATIONS * np.sqrt(variance.max(axis=1))
    return bound


def single_bound(network: PolynomialNetwork, image: Values) -> float:
    """Return a bound of the logits' error for a single ``image``, ``(pixels,)``."""
    ring = Ring(len(network.layers))
    answer = predict_slots(network, Layout.of(network, ring.slots), CkksNoise(ring), image)
    return float(DEVIATIONS * np.sqrt(answer.variance[: len(network.layers[-1].bias)].max()))


def logit_margins(logits: Values) -> Values:
    """Return the difference of each image's two largest logits, ``(n,)``."""
    top = np.partition(logits, -2, axis=1)[:, -2:]
    margin: Values = top[:, 1] - top[:, 0]
    return margin
