"""Features of images, by a fixed rule that depends on no private example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ppml.config.transforms import Patches, Scattering
from ppml.data.transforms.dead_leaves import draw_dead_leaves
from ppml.data.transforms.deformation import DRAWS, Deformation, deform
from ppml.data.transforms.strokes import draw_strokes
from ppml.data.transforms.whitening import Whitening
from ppml.example_draws import draws_per_example, example_digests
from ppml.randomness import Randomness

BIAS = 0.1
"""The constant feature: small, since clipping counts it in the norm."""
AT_ONCE = 64
"""Images per call; blank images fill a smaller batch, since the bits of a matrix product depend on its shape."""


PRIOR_AT_ONCE = 8192
"""Synthetic images per call."""


class Coefficients(Protocol):
    """Coefficients of images; those of an image depend on no other image."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the coefficients of ``images``, ``(n, channels, side, side)``, of unit norm, ``(n, coefficients)``."""


class ImageFeatures:
    """Whitened coefficients of unit norm, and a constant.

    The features of an image are a function of this image, of synthetic images and of the key of ``rng``: the random
    draws of a copy come from a keyed hash of the image and the number of the copy. No bit depends on the number, the
    order or the content of other images, so that the features cost no privacy. Equal images have equal features. The
    bits are those of one thread, one processor and one version of PyTorch.

    Parameters
    ----------
    settings : Scattering or Patches
        The configuration.
    rng : Randomness
        The source of the synthetic images and of the keys of random deformations.
    shape : tuple of int
        The shape of an image: channels, height and width.

    Attributes
    ----------
    size : int
        The number of features, with the constant.
    """

    def __init__(self, settings: Scattering | Patches, rng: Randomness, shape: tuple[int, ...] = (1, 28, 28)) -> None:
        self._channels, *sides = shape
        self._side = max(sides)
        self._copies = settings.copies
        self._views = settings.views
        self._deformation = Deformation(settings.rotation, settings.shear, settings.scale, settings.shift)
        self._mirror = settings.mirror
        self._rng = rng
        images = torch.empty(0)
        if settings.prior != "none":
            images = self._synthetic_images(settings, rng.child(settings.prior).torch())
        self._of_image = _build_coefficients(settings, self._side, images, rng)
        self._whitening = None
        self.size = settings.coefficients(shape) + 1
        if settings.prior != "none":
            prior = torch.cat([self._coefficients(part) for part in images.split(PRIOR_AT_ONCE)])
            self._whitening = Whitening.fit(prior, settings.components, settings.regularization)
            self.size = settings.components + 1

    def _synthetic_images(self, settings: Scattering | Patches, generator: torch.Generator) -> torch.Tensor:
        """Return the images of the prior, float32 ``(n, channels, side, side)``."""
        if settings.prior == "dead_leaves":
            return draw_dead_leaves(settings.strokes, self._channels, self._side, generator)
        strokes = draw_strokes(settings.strokes, generator)[:, None]
        if self._side == strokes.shape[-1]:
            return strokes
        size = (self._side, self._side)
        return functional.interpolate(strokes, size=size, mode="bilinear", align_corners=False, antialias=True)

    def plain(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of ``images``, float32 ``(n, *shape)`` with background 0, as ``(n, size)``."""
        return self._kind(images)

    def copies(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of each image and its deformed copies, ``(n, copies, size)``."""
        return torch.stack(list(self._kinds(images, self._copies, "copy")), dim=1)

    def viewed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean of the features of each image and its deformed views, ``(n, size)``, for prediction."""
        total = torch.zeros(len(images), self.size)
        for kind in self._kinds(images, self._views, "view"):
            total += kind
        return total / self._views

    def _kinds(self, images: torch.Tensor, count: int, name: str) -> Iterator[torch.Tensor]:
        yield self.plain(images)
        digests = example_digests(images) if count > 1 else ()
        for number in range(1, count):
            draws = draws_per_example(self._rng.child(name), number, digests, DRAWS)
            yield self._kind(images, draws)

    def _kind(self, images: torch.Tensor, draws: NDArray[np.float64] | None = None) -> torch.Tensor:
        """Return the features, ``(n, size)``, of images, or of their copies with the random ``draws``."""
        found = torch.empty(len(images), self.size)
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            if draws is not None:
                part = self._deformed(part, draws[start : start + AT_ONCE])
            # Black pixels make an image square.
            down, across = (self._side - length for length in part.shape[2:])
            filled = functional.pad(part, (0, across, 0, down, 0, 0, 0, AT_ONCE - len(part)))
            found[start : start + AT_ONCE] = self._features(filled)[: len(part)]
        return found

    def _deformed(self, images: torch.Tensor, draws: NDArray[np.float64]) -> torch.Tensor:
        """Return a copy of each image; its channels move together."""
        if self._deformation.is_none:
            return images
        each = deform(images.flatten(0, 1), self._deformation, draws.repeat(self._channels, axis=0))
        moved: torch.Tensor = each.unflatten(0, images.shape[:2])
        return moved

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        features = self._coefficients(images)
        if self._whitening is not None:
            features = functional.normalize(self._whitening(features), dim=1)
        return torch.cat([features, torch.full_like(features[:, :1], BIAS)], dim=1)

    def _coefficients(self, images: torch.Tensor) -> torch.Tensor:
        """Return the coefficients of images, or their means with those of the mirror images, ``(n, coefficients)``."""
        coefficients = self._of_image(images)
        return (coefficients + self._of_image(images.flip(-1))) / 2 if self._mirror else coefficients


def _build_coefficients(
    settings: Scattering | Patches, side: int, images: torch.Tensor, rng: Randomness
) -> Coefficients:
    """Return the coefficients of ``settings`` for images of ``side`` pixels; patches come from synthetic ``images``."""
    # Imports in the branches, so that the code digest of a job counts the rule that it uses.
    match settings:
        case Scattering():
            from ppml.data.transforms.scattering import ScatteringCoefficients

            return ScatteringCoefficients(side)
        case Patches():
            from ppml.data.transforms.patches import PatchCoefficients

            return PatchCoefficients(settings, images, rng.child("patches").torch())
