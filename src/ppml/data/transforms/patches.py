"""Similarities of the places of an image to a dictionary of patches (Coates, Ng and Lee 2011, AISTATS)."""

from __future__ import annotations

import torch
from torch.nn import functional

from ppml.config.transforms import Patches

SAMPLE = 100_000
"""Patches drawn from the synthetic images, of which the dictionary takes a part."""
FLATTEST = 0.5
"""The smallest norm of a patch in the dictionary, after its normalisation."""
CONTRAST = 1.0e-2
"""Added to the variance of a patch, of pixels from 0 to 1: a flat patch keeps its small norm."""
ZCA = 0.1
"""Added to the eigenvalues of the covariance of patches, relative to their mean."""
THRESHOLD = 0.7
"""A similarity counts from here on, in mean standard deviations of a place's similarities."""


class PatchCoefficients:
    """Mean similarities, by area of an image, to patches that are drawn from synthetic images.

    Each patch loses its mean and gets unit variance. A linear map whitens the patches of the synthetic images, and the
    dictionary holds some of them with unit norm. The similarity of a place is the product with the dictionary, less
    its mean over the dictionary and a threshold, and at least 0.

    Parameters
    ----------
    settings : Patches
        The configuration.
    images : torch.Tensor
        Synthetic images, float32 ``(n, channels, side, side)``, from 0 to 1. The dictionary reveals them.
    generator : torch.Generator
        The source of the choice of patches.
    """

    def __init__(self, settings: Patches, images: torch.Tensor, generator: torch.Generator) -> None:
        self._size = settings.size
        sample = _normalised(_draw_patches(images, settings.size, generator))
        sample = sample[sample.norm(dim=1) > FLATTEST]
        mean = sample.mean(dim=0)
        whiten = _whitening(sample - mean)
        chosen = torch.randperm(len(sample), generator=generator)[: settings.patches]
        dictionary = functional.normalize((sample[chosen] - mean) @ whiten, dim=1) @ whiten
        centred = dictionary - dictionary.mean(dim=0)
        offset = centred @ mean
        self._matrix = centred.T.contiguous()
        self._offset = -offset - THRESHOLD * (sample @ self._matrix - offset).std(dim=1).mean()
        self._areas = _areas(images.shape[-1] - settings.size + 1, settings.grid)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the coefficients of ``images``, ``(n, channels, side, side)``, as ``(n, grid * grid * patches)``.

        Each image has its own products, whose bits do not depend on other images.
        """
        # In one tensor from the start: small tensors between large temporary ones would fragment the memory.
        found = torch.empty(len(images), self._areas.shape[0] * self._matrix.shape[1])
        for place, image in enumerate(images):
            found[place] = self._of_places(functional.unfold(image[None], self._size)[0].T).flatten()
        return functional.normalize(found, dim=1)

    def _of_places(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the coefficients of one image from the patches of its places, ``(areas, patches)``."""
        similarities = torch.addmm(self._offset, _normalised(patches), self._matrix)
        return self._areas @ similarities.clamp_min_(0.0)


def _draw_patches(images: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return random patches, ``(n, channels * size * size)``."""
    count, channels, side, _ = images.shape
    image = torch.randint(count, (SAMPLE,), generator=generator)
    top, left = (torch.randint(side - size + 1, (SAMPLE,), generator=generator) for _ in range(2))
    inside = torch.arange(size)
    rows, columns = (top[:, None] + inside)[:, None, :, None], (left[:, None] + inside)[:, None, None, :]
    drawn = images[image[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]
    return drawn.flatten(1)


def _normalised(patches: torch.Tensor) -> torch.Tensor:
    """Return patches, ``(n, values)``, with mean 0 and nearly unit variance each."""
    centred = patches - patches.mean(dim=1, keepdim=True)
    return centred * (centred.square().mean(dim=1, keepdim=True) + CONTRAST).rsqrt()


def _whitening(centred: torch.Tensor) -> torch.Tensor:
    """Return the symmetric matrix that makes the covariance of patches nearly the identity (ZCA)."""
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    values = values.clamp_min(0)
    whiten: torch.Tensor = vectors * (values + ZCA * values.mean()).rsqrt() @ vectors.T
    return whiten


def _areas(side: int, grid: int) -> torch.Tensor:
    """Return the matrix of the means over areas of ``side * side`` places, ``(grid * grid, side * side)``."""
    each = torch.eye(side * side).unflatten(1, (side, side))
    means: torch.Tensor = functional.adaptive_avg_pool2d(each, grid)
    return means.flatten(1).T.contiguous()
