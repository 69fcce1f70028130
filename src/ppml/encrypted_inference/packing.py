"""One image: where its values lie in the slots of a few ciphertexts, so that one product serves many weights.

The first map reads values that the image's owner has laid out: one for each input that each output reads. Its result is
*repeated*: every so many slots the outputs come again. A map of a repeated vector by *rows* leaves each output in the
first slot of its row; a map of such a vector by *columns* is repeated again. Sums over slots are by doubling: with each
rotation twice as many slots are added.
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
    >>> doublings(4, 32)
    [4, 8, 16]
    """
    steps = []
    while first < end:
        steps.append(first)
        first *= 2
    return steps


@dataclass(frozen=True)
class InputPacking:
    """How an image's owner lays it out: slot ``g * period + j`` of ciphertext ``c`` is a value that output ``j`` support.

    Parameters
    ----------
    index : int64 array, shape ``(ciphertexts, slots)``
        Which pixel lies in a slot; -1 where nothing does.
    period : int
        Slots after which the outputs come again.
    """

    index: NDArray[np.int64]
    period: int

    @classmethod
    def of(cls, support: NDArray[np.bool_], slots: int) -> InputPacking:
        """Return the layout for a map whose outputs read so, ``(outputs, inputs)``."""
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
        """Return the weights that the slots of each ciphertext are multiplied by."""
        padded = np.zeros((self.period, weights.shape[1] + 1))
        padded[: len(weights), :-1] = weights
        output = np.arange(self.index.shape[1]) % self.period
        return padded[output, self.index]

    def reduction_rotations(self) -> list[int]:
        """Return the rotations that add up what belongs to an output, in all its places."""
        return power_of_two_steps(self.period, self.index.shape[1])


@dataclass(frozen=True)
class RowPacking:
    """A map of a repeated vector, an output a row of slots.

    Parameters
    ----------
    period : int
        Slots after which the inputs come again.
    outputs : int
        A power of two.
    slots : int
        Of a ciphertext.
    """

    period: int
    outputs: int
    slots: int

    @property
    def width(self) -> int:
        """Slots of a row."""
        return self.slots // self.outputs

    def rotations(self) -> list[int]:
        """Return by how much the inputs are rotated, so that each row meets all of them."""
        return list(range(0, self.period, self.width))

    def weights(self, weights: Values) -> Values:
        """Return the weights for each turn, ``(rotations, slots)``."""
        padded = np.zeros((self.outputs, self.period))
        padded[: weights.shape[0], : weights.shape[1]] = weights
        slot = np.arange(self.slots)
        row, place = slot // self.width, slot % self.width
        return np.stack(
            [
                np.where(place + turn < self.period, padded[row, (slot + turn) % self.period], 0.0)
                for turn in self.rotations()
            ]
        )

    def bias(self, bias: Values) -> Values:
        """Return what is added to the slots."""
        return place_in_rows(bias, self.width, self.slots)

    def reduction_rotations(self) -> list[int]:
        """Return the rotations that add up a row in its first slot."""
        return power_of_two_steps(1, self.width)


@dataclass(frozen=True)
class ColumnPacking:
    """A map of values in the first slots of rows; what other slots hold is multiplied by 0.

    Parameters
    ----------
    width : int
        Slots of a row, and after how many the outputs come again.
    slots : int
        Of a ciphertext.
    """

    width: int
    slots: int

    def weights(self, weights: Values) -> Values:
        """Return the weights for each output, ``(outputs, slots)``."""
        return np.stack([place_in_rows(row, self.width, self.slots) for row in weights])

    def bias(self, bias: Values) -> Values:
        """Return what is added to the slots."""
        return tile(bias, self.width, self.slots)

    def reduction_rotations(self) -> list[int]:
        """Return the rotations that add up all rows, in each."""
        return power_of_two_steps(self.width, self.slots)


def place_in_rows(values: Values, width: int, slots: int) -> Values:
    """Return slots with ``values`` in the first slots of rows, and 0 in all others."""
    filled = np.zeros(slots)
    filled[: len(values) * width : width] = values
    return filled


def tile(values: Values, period: int, slots: int) -> Values:
    """Return slots with ``values`` every ``period``, and 0 where there are fewer than that."""
    filled = np.zeros(period)
    filled[: len(values)] = values
    return np.tile(filled, slots // period)


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    Parameters
    ----------
    taps : Taps
        Of the first map.
    maps : tuple of Rows or Columns
        Of those after it, in turns.
    """

    taps: InputPacking
    maps: tuple[RowPacking | ColumnPacking, ...]

    @classmethod
    def of(cls, network: PolynomialNetwork, slots: int) -> Layout:
        """Return the layout of a network, which its architecture decides.

        Raises
        ------
        ValueError
            A map is too wide for the ring, or there is an even number: other slots would be left with partial sums.
        """
        if len(network.layers) % 2 == 0:
            raise ValueError(f"{len(network.layers)} maps: an odd number is needed for slots that hold logits alone")
        taps = InputPacking.of(network.layers[0].support, slots)
        maps: list[RowPacking | ColumnPacking] = []
        period = taps.period
        for number, layer in enumerate(network.layers[1:]):
            outputs = next_power_of_two(len(layer.bias))
            if number % 2 == 0:
                maps.append(RowPacking(period, outputs, slots))
                period = slots // outputs
            elif outputs > period:
                raise ValueError(f"map {number + 2} has {outputs} outputs, and a row {period} slots")
            else:
                maps.append(ColumnPacking(period, slots))
        return cls(taps, tuple(maps))

    def required_rotations(self) -> Sequence[int]:
        """Return every rotation that is done, each once."""
        steps = {*self.taps.reduction_rotations()}
        for one in self.maps:
            steps |= {*one.reduction_rotations()}
            steps |= {-1} if isinstance(one, ColumnPacking) else {*one.rotations()[1:]}
        return sorted(steps)
