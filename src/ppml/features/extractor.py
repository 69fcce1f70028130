"""From images to features, by one rule that was fixed before any record was seen."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

from ppml.config.features import Scattering
from ppml.features.deformation import Deformation, deform
from ppml.features.scattering import ScatteringTransform
from ppml.features.strokes import draw_strokes
from ppml.features.whitening import Whitening
from ppml.randomness import Randomness

GROUPS = 27
"""Groups of channels that are normalised together, as in arXiv 2011.11660."""
BIAS = 0.1
"""The constant feature: small, since it counts towards the norm that is clipped."""
AT_ONCE = 1000
"""Images at a time: their coefficients take 16 MB."""


class ScatteringFeatures:
    """Whitened scattering coefficients of unit norm, and a constant.

    An image's features depend on that image, on random strokes and on the draws of ``rng``, and on no other image: so
    whoever trains on them with differential privacy owes nothing for them.

    Parameters
    ----------
    settings : Scattering
        The configuration.
    rng : Randomness
        Strokes and deformations are drawn from it.

    Attributes
    ----------
    size : int
        Number of features, the constant included.
    """

    def __init__(self, settings: Scattering, rng: Randomness) -> None:
        self.size = settings.components + 1
        self._copies = settings.copies
        self._views = settings.views
        self._deformation = Deformation(settings.rotation, settings.shear, settings.scale, settings.shift)
        self._rng = rng
        self._scattering = ScatteringTransform()
        prior = self._coefficients(draw_strokes(settings.strokes, rng.child("strokes").torch()))
        self._whitening = Whitening.fit(prior, settings.components, settings.regularization)

    def plain(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of ``images``, float32 ``(n, 1, 28, 28)`` with paper 0 and ink 1, as ``(n, size)``."""
        return torch.cat([self._features(part[:, 0]) for part in images.split(AT_ONCE)])

    def copies(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of each image and of deformed copies of it, ``(n, copies, size)``."""
        return torch.stack(list(self._kinds(images, self._copies, "copy")), dim=1)

    def viewed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean of the features of each image and of deformed views of it, ``(n, size)``: what predicts."""
        total = torch.zeros(len(images), self.size)
        for kind in self._kinds(images, self._views, "view"):
            total += kind
        return total / self._views

    def _kinds(self, images: torch.Tensor, count: int, name: str) -> Iterator[torch.Tensor]:
        yield self.plain(images)
        for number in range(1, count):
            generator = self._rng.child(name, number).torch()
            parts = [deform(part[:, 0], self._deformation, generator) for part in images.split(AT_ONCE)]
            yield torch.cat([self._features(part) for part in parts])

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        white = functional.normalize(self._whitening(self._coefficients(images)), dim=1)
        return torch.cat([white, torch.full_like(white[:, :1], BIAS)], dim=1)

    def _coefficients(self, images: torch.Tensor) -> torch.Tensor:
        """Return scattering coefficients of unit norm, ``(n, 3969)``."""
        normalised = functional.group_norm(self._scattering(images), GROUPS)
        return functional.normalize(normalised.flatten(1), dim=1)
