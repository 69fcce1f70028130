"""Plain simulation of the slots of a single image, with the variance of each slot's error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppml.encrypted_inference.ckks_noise import CkksNoise
from ppml.encrypted_inference.network import PolynomialNetwork, Values
from ppml.encrypted_inference.packing import ColumnPacking, Layout, RowPacking, tile


@dataclass(frozen=True)
class Slots:
    """The slots of a ciphertext.

    Parameters
    ----------
    values, variance : float64 arrays, shape ``(slots,)``
        Value and error variance of each slot.
    """

    values: Values
    variance: Values

    def rotate(self, step: int) -> Slots:
        """Return the slots rotated left by ``step``."""
        return Slots(np.roll(self.values, -step), np.roll(self.variance, -step))

    def multiply(self, weights: Values, encoding: float) -> Slots:
        """Return the products with ``weights``, whose encoding error has variance ``encoding``."""
        return Slots(self.values * weights, self.variance * weights**2 + encoding * self.values**2)

    def add(self, other: Slots) -> Slots:
        """Return the sums with slots of independent errors."""
        return Slots(self.values + other.values, self.variance + other.variance)

    def add_error(self, variance: float | Values) -> Slots:
        """Return the slots with an additional error."""
        return Slots(self.values, self.variance + variance)

    def square(self) -> Slots:
        """Return the squares."""
        return Slots(self.values**2, 4 * self.values**2 * self.variance)

    def reduce(self, steps: list[int]) -> Slots:
        """Return the sums over slots for these rotations."""
        total = self
        for step in steps:
            total = total.add(total.rotate(step))
        return total


def predict_slots(network: PolynomialNetwork, layout: Layout, noise: CkksNoise, image: Values) -> Slots:
    """Return all slots of the server's answer for ``image``, ``(pixels,)``, with the logits first.

    The steps are those of :class:`~ppml.encrypted_inference.single_image.SingleImagePredictor`. Rotations before a
    division by a prime add a negligible error.
    """
    first, *others = network.layers
    size = layout.input_packing.index.shape[1]
    weights = layout.input_packing.weights(first.weights)
    total = Slots(np.zeros(size), np.zeros(size))
    for values, row in zip(layout.input_packing.pack(image), weights, strict=True):
        fresh = Slots(values, np.full(size, noise.fresh()))
        total = total.add(fresh.multiply(row, noise.encoding_of_vector(0)))
    bias = tile(first.bias, layout.input_packing.period, size)
    state = _add_bias(total.reduce(layout.input_packing.reduction_rotations()), bias, noise.division(0))
    for number, (place, layer) in enumerate(zip(layout.maps, others, strict=True), start=1):
        state = state.square().add_error(noise.division_of_square())
        match place:
            case RowPacking():
                total = _by_rows(state, place, layer.weights, noise, number)
            case ColumnPacking():
                total = _by_columns(state, place, layer.weights, noise, number)
        state = _add_bias(total.reduce(place.reduction_rotations()), place.bias(layer.bias), noise.division(number))
    return state


def _by_rows(state: Slots, rows: RowPacking, weights: Values, noise: CkksNoise, number: int) -> Slots:
    total = Slots(np.zeros_like(state.values), np.zeros_like(state.values))
    for step, row in zip(rows.rotations(), rows.weights(weights), strict=True):
        rotated = state.rotate(step).add_error(noise.key_switching(number)) if step else state
        total = total.add(rotated.multiply(row, noise.encoding_of_vector(number)))
    return total


def _by_columns(state: Slots, columns: ColumnPacking, weights: Values, noise: CkksNoise, number: int) -> Slots:
    total = Slots(np.zeros_like(state.values), np.zeros_like(state.values))
    for output, row in enumerate(columns.weights(weights)):
        total = total.add(state.multiply(row, noise.encoding_of_vector(number)).rotate(-output))
    return total


def _add_bias(total: Slots, bias: Values, division: float) -> Slots:
    return Slots(total.values + bias, total.variance + division)
