"""Polynomial networks: affine maps with squares between them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ppml.models.square_cnn import Square

Values = NDArray[np.float64]

AFFINE = (nn.Conv2d, nn.Linear, nn.Flatten, nn.ZeroPad2d, nn.BatchNorm1d, nn.BatchNorm2d)
"""Layers that are affine maps in evaluation mode; normalisation uses fixed statistics then."""


@dataclass(frozen=True)
class Affine:
    """One affine map.

    Parameters
    ----------
    weights : float64 array, shape ``(outputs, inputs)``
        Matrix of the map.
    bias : float64 array, shape ``(outputs,)``
        Constant term.
    support : bool array, shape ``(outputs, inputs)``
        Public pattern of the weights that can be nonzero under the architecture.
    """

    weights: Values
    bias: Values
    support: NDArray[np.bool_]

    def select_inputs(self, chosen: NDArray[np.intp]) -> Affine:
        """Return the map on the ``chosen`` inputs; all others must be outside the support."""
        return Affine(self.weights[:, chosen], self.bias, self.support[:, chosen])

    def __call__(self, inputs: Values) -> Values:
        """Return the outputs for ``inputs``, ``(n, inputs)``."""
        product: Values = inputs @ self.weights.T + self.bias
        return product


@dataclass(frozen=True)
class PolynomialNetwork:
    """Affine maps with a square between each map and the next.

    Parameters
    ----------
    layers : tuple of Affine
        The first maps an image's pixels, row by row; the last gives logits.
    """

    layers: tuple[Affine, ...]

    @property
    def pixels(self) -> NDArray[np.intp]:
        """Indices of the pixels in the support of the first map, in order."""
        return np.flatnonzero(self.layers[0].support.any(axis=0))

    def logits(self, inputs: Values) -> Values:
        """Return the logits of ``inputs``, ``(n, pixels)``."""
        values = self.layers[0](inputs)
        for layer in self.layers[1:]:
            values = layer(values**2)
        return values


def extract_polynomial_network(model: nn.Sequential, shape: Sequence[int]) -> PolynomialNetwork:
    """Return the polynomial network of ``model`` for images of ``shape``; maps include the batch normalisation.

    Raises
    ------
    TypeError
        A layer is neither an affine map nor a square.
    """
    exact = copy.deepcopy(model).double().eval()
    # With all weights 1 nothing cancels, so a zero of the probe is a zero for all weights.
    probe = copy.deepcopy(exact)
    for parameter in probe.parameters():
        nn.init.ones_(parameter)
    for module in probe.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
    layers, shape = [], tuple(shape)
    for part, probed in zip(_affine_parts(exact), _affine_parts(probe), strict=True):
        weights, bias, after = _affine_map(part, shape)
        support, _, _ = _affine_map(probed, shape)
        layers.append(Affine(weights, bias, support != 0))
        shape = after
    return PolynomialNetwork(tuple(layers))


def _affine_parts(model: nn.Sequential) -> Iterator[nn.Sequential]:
    """Yield the affine parts between squares."""
    layers: list[nn.Module] = []
    for module in model:
        if isinstance(module, Square):
            yield nn.Sequential(*layers)
            layers = []
        elif isinstance(module, AFFINE):
            layers.append(module)
        else:
            raise TypeError(f"{type(module).__name__} is neither affine nor a square: it cannot be evaluated encrypted")
    yield nn.Sequential(*layers)


@torch.no_grad()
def _affine_map(part: nn.Sequential, shape: tuple[int, ...]) -> tuple[Values, Values, tuple[int, ...]]:
    """Return weights, bias and output shape of an affine part for inputs of ``shape``, evaluated on unit vectors."""
    size = int(np.prod(shape))
    origin = part(torch.zeros(1, *shape, dtype=torch.float64))
    images = part(torch.eye(size, dtype=torch.float64).reshape(size, *shape))
    weights = (images - origin).reshape(size, -1).T.contiguous().numpy()
    return weights, origin.flatten().numpy(), tuple(origin.shape[1:])
