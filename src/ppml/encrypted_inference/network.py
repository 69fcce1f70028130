"""What a polynomial network computes: affine maps with squares between them, and nothing else."""

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
"""Layers that are affine maps when a model predicts: normalisation by fixed statistics is one."""


@dataclass(frozen=True)
class Affine:
    """One affine map.

    Parameters
    ----------
    weights : float64 array, shape ``(outputs, inputs)``
    bias : float64 array, shape ``(outputs,)``
    reads : bool array, shape ``(outputs, inputs)``
        Which inputs an output depends on by the architecture, whatever the weights: public.
    """

    weights: Values
    bias: Values
    support: NDArray[np.bool_]

    def of(self, chosen: NDArray[np.intp]) -> Affine:
        """Return the map of the ``chosen`` inputs alone, where no output support another."""
        return Affine(self.weights[:, chosen], self.bias, self.support[:, chosen])

    def __call__(self, inputs: Values) -> Values:
        """Return the outputs for ``inputs``, ``(n, inputs)``."""
        product: Values = inputs @ self.weights.T + self.bias
        return product


@dataclass(frozen=True)
class PolynomialNetwork:
    """Affine maps, with a square between one and the next.

    Parameters
    ----------
    layers : tuple of Affine
        The first maps an image's pixels, row by row; the last gives logits.
    """

    layers: tuple[Affine, ...]

    @property
    def pixels(self) -> NDArray[np.intp]:
        """Which pixels anything is read from, in their order."""
        return np.flatnonzero(self.layers[0].support.any(axis=0))

    def logits(self, inputs: Values) -> Values:
        """Return the logits of ``inputs``, ``(n, pixels)``."""
        values = self.layers[0](inputs)
        for layer in self.layers[1:]:
            values = layer(values**2)
        return values


def extract_polynomial_network(model: nn.Sequential, shape: Sequence[int]) -> PolynomialNetwork:
    """Return what ``model`` computes for one image of ``shape``, batch normalisation folded into the maps.

    Raises
    ------
    TypeError
        A layer is neither an affine map nor a square.
    """
    exact = copy.deepcopy(model).double().eval()
    # With all weights 1 nothing cancels: what does not depend on an input then, never does.
    probe = copy.deepcopy(exact)
    for parameter in probe.parameters():
        nn.init.ones_(parameter)
    for module in probe.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
    layers, shape = [], tuple(shape)
    for stretch, probed in zip(_stretches(exact), _stretches(probe), strict=True):
        weights, bias, after = _affine(stretch, shape)
        support, _, _ = _affine(probed, shape)
        layers.append(Affine(weights, bias, support != 0))
        shape = after
    return PolynomialNetwork(tuple(layers))


def _stretches(model: nn.Sequential) -> Iterator[nn.Sequential]:
    """Yield the affine stretches between squares."""
    stretch: list[nn.Module] = []
    for module in model:
        if isinstance(module, Square):
            yield nn.Sequential(*stretch)
            stretch = []
        elif isinstance(module, AFFINE):
            stretch.append(module)
        else:
            raise TypeError(f"{type(module).__name__} is neither affine nor a square: it cannot be evaluated encrypted")
    yield nn.Sequential(*stretch)


@torch.no_grad()
def _affine(stretch: nn.Sequential, shape: tuple[int, ...]) -> tuple[Values, Values, tuple[int, ...]]:
    """Return weights, bias and the shape of the output of an affine map of one input of ``shape``, by trying it."""
    size = int(np.prod(shape))
    origin = stretch(torch.zeros(1, *shape, dtype=torch.float64))
    images = stretch(torch.eye(size, dtype=torch.float64).reshape(size, *shape))
    weights = (images - origin).reshape(size, -1).T.contiguous().numpy()
    return weights, origin.flatten().numpy(), tuple(origin.shape[1:])
