"""How far a decrypted logit may be from the plain one: errors of encryption, followed through a network."""

from __future__ import annotations

import numpy as np

from ppml.encrypted.network import Network, Values
from ppml.encrypted.ring import LOGIT_SCALE, SCALE, Depth

NOISE_VARIANCE = 3.2**2
"""Of a coefficient of SEAL's error distribution."""
ROUNDING = 1 / 12
"""The variance of rounding to a whole number."""
DEVIATIONS = 7.0
"""The bound: a normal value is beyond it once in 4e11."""
BAD_SLOT = 20.0
"""By how much a slot's variance may be above the mean: errors are multiplied by the key's value there, whose square is
about exponential; of 4,096 slots one is above 20 times the mean with a probability of 1e-5."""


def logit_bound(network: Network, images: Values) -> Values:
    """Return a bound of the error of each image's decrypted logits, ``(n,)``, whichever way they are evaluated.

    Errors are taken as independent with mean 0, as is usual (Costache et al., ePrint 2022/162): fresh encryption, the
    rounding of each division by a prime, and the switching of keys after squares and rotations, each in slots, where
    the value of a polynomial of ``N`` coefficients has ``N / 2`` times their variance. A map adds what its weights make
    of the variances before it; a square multiplies an error by twice the value.
    """
    depth = Depth(len(network.layers))
    variance = np.full_like(images, _in_slots(depth, NOISE_VARIANCE + ROUNDING, SCALE))
    values = images
    for number, layer in enumerate(network.layers):
        last = number == len(network.layers) - 1
        # Weights, too, are rounded when they are encoded.
        of_weights = _in_slots(depth, ROUNDING, SCALE) * (values**2).sum(axis=1, keepdims=True)
        scale = LOGIT_SCALE if last else SCALE
        variance = variance @ (layer.weights**2).T + of_weights + BAD_SLOT * _of_division(depth, scale)
        values = layer(values)
        if not last:
            # A division after the square, and rotations of what comes of it.
            added = _of_division(depth, SCALE) + _of_switching(depth, SCALE)
            variance, values = 4 * values**2 * variance + BAD_SLOT * added, values**2
    bound: Values = DEVIATIONS * np.sqrt(variance.max(axis=1))
    return bound


def _in_slots(depth: Depth, coefficient: float, scale: float) -> float:
    """Return the variance of the real part of a slot, for one of a coefficient."""
    return depth.degree / 2 * coefficient / scale**2


def _of_division(depth: Depth, scale: float) -> float:
    """Return the variance that dividing by a prime leaves: two roundings, one times a ternary key of 2N/3 entries."""
    return _in_slots(depth, ROUNDING * (1 + 2 * depth.degree / 3), scale)


def _of_switching(depth: Depth, scale: float) -> float:
    """Return the variance of switching keys: a digit a prime, times fresh errors, divided by the last prime."""
    digits = 2.0 ** (2 * max(depth.bits[1:-1]) - 2 * depth.bits[-1])
    errors = len(depth.bits) * depth.degree * digits * ROUNDING * NOISE_VARIANCE
    return _in_slots(depth, errors + ROUNDING * (1 + 2 * depth.degree / 3), scale)


def margins(logits: Values) -> Values:
    """Return by how much each image's largest logit is above the next, ``(n,)``."""
    top = np.partition(logits, -2, axis=1)[:, -2:]
    margin: Values = np.abs(top[:, 1] - top[:, 0])
    return margin
