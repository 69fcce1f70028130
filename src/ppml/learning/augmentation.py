"""Augmentation: one random shift for a whole batch, or a random deformation for each image."""

from __future__ import annotations

import torch
from torch.nn import functional

from ppml.features.deformation import Deformation, deform
from ppml.randomness import Randomness


class Augmentation:
    """What is done to the images of every step.

    Parameters
    ----------
    pixels : int
        Of :func:`shift_batch`.
    deformation : Deformation
        Of :func:`deform_each`.
    rng : Randomness
        What both are drawn from.
    """

    def __init__(self, pixels: int, deformation: Deformation, rng: Randomness) -> None:
        self._pixels, self._deformation = pixels, deformation
        self._shifts, self._deformations = rng.child("shift").torch(), rng.child("deformation").torch()

    @property
    def is_none(self) -> bool:
        """Whether images stay as they are."""
        return self._pixels == 0 and self._deformation.is_none

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images of the next step, augmented."""
        return shift_batch(deform_each(images, self._deformation, self._deformations), self._pixels, self._shifts)


def shift_batch(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Shift all images of a batch by one random offset of at most ``pixels`` in each direction.

    The offset does not depend on the data, so that the sensitivity of a clipped gradient sum is unchanged. What moves
    in from outside repeats the border, which in the data sets here is background.
    """
    if pixels == 0 or len(images) == 0:
        return images
    down, right = torch.randint(0, 2 * pixels + 1, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    padded = functional.pad(images, (pixels,) * 4, mode="replicate")
    return padded[..., down : down + height, right : right + width]


def deform_each(images: torch.Tensor, deformation: Deformation, generator: torch.Generator) -> torch.Tensor:
    """Return each of ``images``, ``(n, 1, height, width)``, turned, sheared, scaled and moved by its own draw.

    The draw does not depend on the data, and an image is deformed by itself. What comes in from outside repeats the
    border.

    Raises
    ------
    ValueError
        The images have more than one channel.
    """
    if deformation.is_none or len(images) == 0:
        return images
    return deform(images.squeeze(1), deformation, generator, "border")[:, None]
