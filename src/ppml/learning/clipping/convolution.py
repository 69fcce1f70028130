"""Per-example gradients of two-dimensional convolutions.

With ``T`` output positions, ``D`` inputs and ``O`` outputs per position, an example's gradient is the product of its
output gradients, ``O x T``, with its unfolded input, ``T x D``. Its squared norm is the inner product of two ``T x T``
Gram matrices. The Gram matrix of the unfolded input needs no unfolding: each entry is a sum over the kernel positions
of products of pixels, so the matrix is a sum of shifted slices of the Gram matrix of the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional

from ppml.learning.clipping.gradient_factors import (
    Materialized,
    PerExampleGradient,
    gram_squared_norms,
    zero_rows_except,
)

MEMORY_ACCESS_COST = 4
"""Cost of reading or writing a value, in multiplications of a matrix product (measured, one core with AVX2)."""

SPARSE_FRACTION = 0.75
"""Below this fraction of kernel positions on the image, one product per position is faster than unfolding."""


@dataclass(frozen=True)
class Axis:
    """One dimension of a convolution.

    Parameters
    ----------
    size, outputs, kernel, stride, padding, dilation : int
        Pixels, output positions, and the layer's settings.
    """

    size: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    def taps(self) -> Iterator[tuple[int, slice, slice]]:
        """Yield each kernel position, the output positions where it lies on the image, and the pixels under it."""
        for place in range(self.kernel):
            offset = place * self.dilation - self.padding
            first = max(0, -(offset // self.stride))
            end = min(self.outputs, (self.size - 1 - offset) // self.stride + 1)
            if first < end:
                start = first * self.stride + offset
                stop = (end - 1) * self.stride + offset + 1
                yield place, slice(first, end), slice(start, stop, self.stride)

    @cached_property
    def on_image(self) -> float:
        """Fraction of the pairs of output position and kernel position that lie on the image."""
        pairs: int = sum(positions.stop - positions.start for _, positions, _ in self.taps())
        return pairs / (self.outputs * self.kernel)


@dataclass(frozen=True)
class Convolution:
    """Inputs and output gradients of a convolution, the factors of its weight gradient.

    Parameters
    ----------
    parameter : torch.Tensor
        Shape ``(out_channels, in_channels / groups, height, width)``.
    inputs, outputs : torch.Tensor
        Layer inputs and output gradients, shape ``(n, channels, height, width)``.
    rows, columns : Axis
        The two dimensions.
    groups : int
        Number of groups of the layer.
    """

    parameter: torch.Tensor
    inputs: torch.Tensor
    outputs: torch.Tensor
    rows: Axis
    columns: Axis
    groups: int

    def gradients_by_position(self) -> torch.Tensor:
        """Return the output gradients, shape ``(n, groups, positions, out_channels / groups)``."""
        return _by_position(self.outputs, self.groups)

    def pixels(self) -> torch.Tensor:
        """Return the inputs, shape ``(n, groups, pixels, in_channels / groups)``."""
        return _by_position(self.inputs, self.groups)

    def patches(self) -> torch.Tensor:
        """Return the unfolded inputs, shape ``(n, groups, positions, D)``; ``D`` is rows, columns, channels."""
        rows, columns = self.rows, self.columns
        padding = (columns.padding, columns.padding, rows.padding, rows.padding)
        padded = functional.pad(self.inputs, padding) if any(padding) else self.inputs
        padded = padded.unflatten(1, (self.groups, -1))
        n, groups, channels, *_ = padded.shape
        of_n, of_group, of_channel, of_row, of_column = padded.stride()
        windows = padded.as_strided(
            (n, groups, rows.outputs, columns.outputs, rows.kernel, columns.kernel, channels),
            (
                *(of_n, of_group, of_row * rows.stride, of_column * columns.stride),
                *(of_row * rows.dilation, of_column * columns.dilation, of_channel),
            ),
            padded.storage_offset(),
        )
        size = rows.kernel * columns.kernel * channels
        patches: torch.Tensor = windows.reshape(n, groups, rows.outputs * columns.outputs, size)
        return patches

    def as_weight(self, products: torch.Tensor) -> torch.Tensor:
        """Reshape values in the order output, row, column, channel to the weight."""
        out, channels, height, width = self.parameter.shape
        weight: torch.Tensor = products.reshape(out, height, width, channels).permute(0, 3, 1, 2)
        return weight

    def materialize(self) -> Materialized:
        """Return the materialised gradients."""
        return Materialized(self.parameter, self.gradients_by_position().mT @ self.patches(), self.as_weight)


def _by_position(values: torch.Tensor, groups: int) -> torch.Tensor:
    by_position: torch.Tensor = values.flatten(2).unflatten(1, (groups, -1)).mT
    return by_position


@dataclass(frozen=True)
class GramMatrices:
    """Gradients in the factors inputs and output gradients.

    Parameters
    ----------
    convolution : Convolution
        Inputs and output gradients.
    unfolded : bool
        True to compute the Gram matrix of the inputs from unfolded inputs instead of pixels.
    """

    convolution: Convolution
    unfolded: bool

    @property
    def parameter(self) -> torch.Tensor:
        """The parameter of these gradients."""
        return self.convolution.parameter

    def squared_norms(self) -> torch.Tensor:
        """Return the squared norm of each example's gradient, shape ``(n,)``."""
        gradients = self.convolution.gradients_by_position()
        return gram_squared_norms(self.input_gram(), gradients @ gradients.mT)

    def zero_except(self, kept: torch.Tensor) -> GramMatrices:
        """Return the gradients of the ``kept`` examples, and 0 for the others."""
        inputs, outputs = (zero_rows_except(kept, one) for one in (self.convolution.inputs, self.convolution.outputs))
        return replace(self, convolution=replace(self.convolution, inputs=inputs, outputs=outputs))

    def input_gram(self) -> torch.Tensor:
        """Return the Gram matrix of the unfolded inputs, shape ``(n, groups, positions, positions)``."""
        if self.unfolded:
            patches = self.convolution.patches()
            return patches @ patches.mT
        rows, columns = self.convolution.rows, self.convolution.columns
        pixels = self.convolution.pixels()
        gram = (pixels @ pixels.mT).unflatten(3, (rows.size, columns.size)).unflatten(2, (rows.size, columns.size))
        # Separable: height + width additions instead of height * width.
        gram = _sum_slices(gram, rows, 2)
        gram = _sum_slices(gram, columns, 3)
        return gram.flatten(4, 5).flatten(2, 3)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients, each times its factor."""
        convolution = self.convolution
        scaled = convolution.outputs * factors[:, None, None, None]
        if convolution.groups == 1 and convolution.rows.on_image * convolution.columns.on_image < SPARSE_FRACTION:
            return _sum_by_tap(convolution, scaled)
        gradients = _by_position(scaled, convolution.groups).transpose(0, 1).flatten(1, 2)
        patches = convolution.patches().transpose(0, 1).flatten(1, 2)
        return convolution.as_weight(gradients.mT @ patches)


def _sum_slices(gram: torch.Tensor, axis: Axis, dimension: int) -> torch.Tensor:
    """Sum the slices under the kernel positions along one dimension of both positions of each entry."""
    other = dimension + 2
    shape = list(gram.shape)
    shape[dimension] = shape[other] = axis.outputs
    total = gram.new_zeros(shape)
    for _, positions, pixels in axis.taps():
        into, out_of = ([slice(None)] * 6 for _ in range(2))
        into[dimension] = into[other] = positions
        out_of[dimension] = out_of[other] = pixels
        total[tuple(into)] += gram[tuple(out_of)]
    return total


def _sum_by_tap(convolution: Convolution, gradients: torch.Tensor) -> torch.Tensor:
    """Return the weight's gradient by one matrix product per kernel position, without padding."""
    out, channels, height, width = convolution.parameter.shape
    total = gradients.new_zeros((height, width, out, channels))
    inputs, gradients = convolution.inputs.movedim(1, 3), gradients.movedim(1, 3)
    for row, rows, pixel_rows in convolution.rows.taps():
        for column, columns, pixel_columns in convolution.columns.taps():
            left = gradients[:, rows, columns].reshape(-1, out)
            right = inputs[:, pixel_rows, pixel_columns].reshape(-1, channels)
            torch.mm(left.T, right, out=total[row, column])
    return total.permute(2, 3, 0, 1)


def convolution_gradients(
    layer: nn.Conv2d, inputs: torch.Tensor, outputs: torch.Tensor
) -> Iterator[PerExampleGradient]:
    """Yield the gradients of weight and bias.

    Parameters
    ----------
    inputs : torch.Tensor
        Layer inputs, shape ``(n, in_channels, height, width)``.
    outputs : torch.Tensor
        Output gradients, shape ``(n, out_channels, height, width)``.
    """
    if layer.weight.requires_grad:
        convolution = as_convolution(layer, inputs, outputs)
        yield cheapest(convolution)
    if layer.bias is not None and layer.bias.requires_grad:
        yield Materialized(layer.bias, outputs.sum((2, 3)))


def as_convolution(layer: nn.Conv2d, inputs: torch.Tensor, outputs: torch.Tensor) -> Convolution:
    """Return the convolution of the weight, with any padding other than symmetric zeros applied to the inputs."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        around = layer._reversed_padding_repeated_twice
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = functional.pad(inputs, around, mode=mode)
        padding: tuple[int, ...] = (0, 0)
    else:
        padding = layer.padding
    rows, columns = (
        Axis(*(int(value) for value in values))
        for values in zip(
            *(inputs.shape[2:], outputs.shape[2:], layer.kernel_size, layer.stride, padding, layer.dilation),
            strict=True,
        )
    )
    return Convolution(layer.weight, inputs, outputs, rows, columns, layer.groups)


def cheapest(convolution: Convolution) -> PerExampleGradient:
    """Return the gradients in the cheapest form; all forms have the same values."""
    rows, columns, groups = convolution.rows, convolution.columns, convolution.groups
    positions = rows.outputs * columns.outputs
    pixels = rows.size * columns.size
    weight = convolution.parameter.numel()
    channels, out = convolution.inputs.shape[1], convolution.outputs.shape[1]
    unfolded = channels * rows.kernel * columns.kernel
    gram = groups * positions**2
    costs = {
        # The product of materialised gradients replaces the product of their sum.
        "explicit": MEMORY_ACCESS_COST * (3 * weight + positions * unfolded),
        "patches": positions**2 * (unfolded + out) + MEMORY_ACCESS_COST * (2 * gram + positions * unfolded),
        "pixels": pixels**2 * channels
        + positions**2 * out
        + MEMORY_ACCESS_COST * (rows.kernel + columns.kernel + 2) * gram,
    }
    form = min(costs, key=costs.__getitem__)
    if form == "explicit":
        return convolution.materialize()
    return GramMatrices(convolution, unfolded=form == "patches")
