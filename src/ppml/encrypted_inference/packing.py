"""Packing of a single image into the slots of a few ciphertexts, so that one product serves many weights.

The client packs one value per input of each output of the first map. Its result is *periodic*: the outputs repeat after
a fixed number of slots. A map of a periodic vector by *rows* leaves each output in the first slot of its row; a map of
such a vector by *columns* is periodic again. Sums over slots use doubling: each rotation doubles the number of summed
slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppml.encrypted_inference.network import PolynomialNetwork, Values


def next_power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least ``count``."""
    return 1 << (count - 1).bit_length()


def power_of_two_steps(first: int, end: int) -> list[int]:
    """Return ``first``, twice that, and so on below ``end``.

    Examples
    --------
    >>> power_of_two_steps(4, 32)
    [4, 8, 16]
    """
    steps = []
    while first < end:
        steps.append(first)
        first *= 2
    return steps


@dataclass(frozen=True)
class InputPacking:
    """Packing of an image: slot ``g * period + j`` of ciphertext ``c`` holds an input of output ``j``.

    Parameters
    ----------
    index : int64 array, shape ``(ciphertexts, slots)``
        The pixel of each slot; -1 for an empty slot.
    period : int
        Number of slots after which the outputs repeat.
    """

    index: NDArray[np.int64]
    period: int

    @classmethod
    def of(cls, support: NDArray[np.bool_], slots: int) -> InputPacking:
        """Return the packing for a map with this support, ``(outputs, inputs)``."""
        period = next_power_of_two(len(support))
        groups = slots // period
        ciphertexts = -(-int(support.sum(axis=1).max()) // groups)
        index = np.full((ciphertexts * groups, period), -1)
        for output, row in enumerate(support):
            taps = np.flatnonzero(row)
            index[: len(taps), output] = taps
        return cls(index.reshape(ciphertexts, slots), period)

    def pack(self, image: Values) -> Values:
        """Return the slots of each ciphertext for an image, ``(pixels,)``."""
        return np.append(image, 0.0)[self.index]

    def weights(self, weights: Values) -> Values:
        """Return the weights for the slots of each ciphertext."""
        padded = np.zeros((self.period, weights.shape[1] + 1))
        padded[: len(weights), :-1] = weights
        output = np.arange(self.index.shape[1]) % self.period
        return padded[output, self.index]

    def reduction_rotations(self) -> list[int]:
        """Return the rotations that add up the products of each output."""
        return power_of_two_steps(self.period, self.index.shape[1])


@dataclass(frozen=True)
class RowPacking:
    """A map of a periodic vector with one row of slots per output.

    Parameters
    ----------
    period : int
        Number of slots after which the inputs repeat.
    outputs : int
        A power of two.
    slots : int
        Number of slots of a ciphertext.
    """

    period: int
    outputs: int
    slots: int

    @property
    def width(self) -> int:
        """Number of slots in a row."""
        return self.slots // self.outputs

    def rotations(self) -> list[int]:
        """Return the rotations of the inputs that bring all of them to each row."""
        return list(range(0, self.period, self.width))

    def weights(self, weights: Values) -> Values:
        """Return the weights for each rotation, ``(rotations, slots)``."""
        padded = np.zeros((self.outputs, self.period))
        padded[: weights.shape[0], : weights.shape[1]] = weights
        slot = np.arange(self.slots)
        row, place = slot // self.width, slot % self.width
        return np.stack(
            [
                np.where(place + step < self.period, padded[row, (slot + step) % self.period], 0.0)
                for step in self.rotations()
            ]
        )

    def bias(self, bias: Values) -> Values:
        """Return the bias in the slots."""
        return place_in_rows(bias, self.width, self.slots)

    def reduction_rotations(self) -> list[int]:
        """Return the rotations that add up a row in its first slot."""
        return power_of_two_steps(1, self.width)


@dataclass(frozen=True)
class ColumnPacking:
    """A map of values in the first slots of rows; the other slots have weight 0.

    Parameters
    ----------
    width : int
        Number of slots in a row, and after which the outputs repeat.
    slots : int
        Number of slots of a ciphertext.
    """

    width: int
    slots: int

    def weights(self, weights: Values) -> Values:
        """Return the weights for each output, ``(outputs, slots)``."""
        return np.stack([place_in_rows(row, self.width, self.slots) for row in weights])

    def bias(self, bias: Values) -> Values:
        """Return the bias in the slots."""
        return tile(bias, self.width, self.slots)

    def reduction_rotations(self) -> list[int]:
        """Return the rotations that add up all rows, in each row."""
        return power_of_two_steps(self.width, self.slots)


def place_in_rows(values: Values, width: int, slots: int) -> Values:
    """Return slots with ``values`` in the first slots of rows, and 0 in all others."""
    filled = np.zeros(slots)
    filled[: len(values) * width : width] = values
    return filled


def tile(values: Values, period: int, slots: int) -> Values:
    """Return slots with ``values``, padded by 0, repeated every ``period`` slots."""
    filled = np.zeros(period)
    filled[: len(values)] = values
    return np.tile(filled, slots // period)


@dataclass(frozen=True)
class Layout:
    """The packings of all maps.

    Parameters
    ----------
    input_packing : InputPacking
        Packing of the first map.
    maps : tuple of RowPacking or ColumnPacking
        Packings of the later maps, alternating.
    """

    input_packing: InputPacking
    maps: tuple[RowPacking | ColumnPacking, ...]

    @classmethod
    def of(cls, network: PolynomialNetwork, slots: int) -> Layout:
        """Return the layout of a network, a function of its architecture.

        Raises
        ------
        ValueError
            A map is too wide for the ring, or the number of maps is even: other slots would contain partial sums.
        """
        if len(network.layers) % 2 == 0:
            raise ValueError(f"{len(network.layers)} maps: an odd number is needed for slots with only logits")
        packing = InputPacking.of(network.layers[0].support, slots)
        maps: list[RowPacking | ColumnPacking] = []
        period = packing.period
        for number, layer in enumerate(network.layers[1:]):
            outputs = next_power_of_two(len(layer.bias))
            if number % 2 == 0:
                maps.append(RowPacking(period, outputs, slots))
                period = slots // outputs
            elif outputs > period:
                raise ValueError(f"map {number + 2} has {outputs} outputs, and a row {period} slots")
            else:
                maps.append(ColumnPacking(period, slots))
        return cls(packing, tuple(maps))

    def required_rotations(self) -> Sequence[int]:
        """Return all rotations of the evaluation, each once."""
        steps = {*self.input_packing.reduction_rotations()}
        for one in self.maps:
            steps |= {*one.reduction_rotations()}
            steps |= {-1} if isinstance(one, ColumnPacking) else {*one.rotations()[1:]}
        return sorted(steps)
