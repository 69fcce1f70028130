"""What the slots of one image hold, calculated in the clear, each with the variance of its error under encryption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppml.encrypted_inference.ckks_noise import Noise
from ppml.encrypted_inference.network import Network, Values
from ppml.encrypted_inference.packing import Columns, Layout, Rows, repeated


@dataclass(frozen=True)
class Slots:
    """The slots of a ciphertext.

    Parameters
    ----------
    values, variance : float64 arrays, shape ``(slots,)``
    """

    values: Values
    variance: Values

    def turned(self, step: int) -> Slots:
        """Return the slots rotated to the left."""
        return Slots(np.roll(self.values, -step), np.roll(self.variance, -step))

    def times(self, weights: Values, encoding: float) -> Slots:
        """Return the products with ``weights`` whose encoding has an error of variance ``encoding``."""
        return Slots(self.values * weights, self.variance * weights**2 + encoding * self.values**2)

    def plus(self, other: Slots) -> Slots:
        """Return the sums with slots whose errors are others."""
        return Slots(self.values + other.values, self.variance + other.variance)

    def with_error(self, variance: float | Values) -> Slots:
        """Return the slots with an error more."""
        return Slots(self.values, self.variance + variance)

    def squared(self) -> Slots:
        """Return the squares."""
        return Slots(self.values**2, 4 * self.values**2 * self.variance)

    def folded(self, steps: list[int]) -> Slots:
        """Return the sums over slots that these rotations add up."""
        total = self
        for step in steps:
            total = total.plus(total.turned(step))
        return total


def slots_of(network: Network, layout: Layout, noise: Noise, image: Values) -> Slots:
    """Return what the server's answer holds for ``image``, ``(pixels,)``: the logits, and what lies beside them.

    It follows :class:`~ppml.encrypted_inference.single_image.OneImage`.
    Rotations of what is divided by a prime afterwards add
    no error that would count.
    """
    first, *others = network.layers
    size = layout.taps.index.shape[1]
    weights = layout.taps.weights(first.weights)
    total = Slots(np.zeros(size), np.zeros(size))
    for values, row in zip(layout.taps.spread(image), weights, strict=True):
        fresh = Slots(values, np.full(size, noise.fresh()))
        total = total.plus(fresh.times(row, noise.encoding_of_vector(0)))
    bias = repeated(first.bias, layout.taps.period, size)
    state = _finished(total.folded(layout.taps.folds()), bias, noise.division(0))
    for number, (place, layer) in enumerate(zip(layout.maps, others, strict=True), start=1):
        state = state.squared().with_error(noise.division_of_square())
        match place:
            case Rows():
                total = _by_rows(state, place, layer.weights, noise, number)
            case Columns():
                total = _by_columns(state, place, layer.weights, noise, number)
        state = _finished(total.folded(place.folds()), place.bias(layer.bias), noise.division(number))
    return state


def _by_rows(state: Slots, rows: Rows, weights: Values, noise: Noise, number: int) -> Slots:
    total = Slots(np.zeros_like(state.values), np.zeros_like(state.values))
    for turn, row in zip(rows.turns(), rows.weights(weights), strict=True):
        turned = state.turned(turn).with_error(noise.switching(number)) if turn else state
        total = total.plus(turned.times(row, noise.encoding_of_vector(number)))
    return total


def _by_columns(state: Slots, columns: Columns, weights: Values, noise: Noise, number: int) -> Slots:
    total = Slots(np.zeros_like(state.values), np.zeros_like(state.values))
    for output, row in enumerate(columns.weights(weights)):
        total = total.plus(state.times(row, noise.encoding_of_vector(number)).turned(-output))
    return total


def _finished(total: Slots, bias: Values, division: float) -> Slots:
    return Slots(total.values + bias, total.variance + division)
