"""Augmentation: one random shift for a whole batch, or a random deformation for each image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ppml.data.examples import Examples
from ppml.data.transforms.deformation import DRAWS, Deformation, deform
from ppml.example_draws import draws_of_records, draws_of_step
from ppml.randomness import Randomness


class Augmentation:
    """What is done to the images of every step.

    A deformation is drawn from a keyed hash of the record and of the number of the step, a shift from one of the number
    of the step alone. So the image that a record is trained on in a step is a function of that record and of the step:
    other records, their order and the sample do not enter it. Clipped gradients of such images add up to a sum that
    changes by at most the clipping norm where a record contributes nothing. That holds for every key, one that an
    adversary knows as well: where noise and samples come from the operating system, augmentation stays seeded.

    Equal records are deformed alike in a step. That costs no privacy, since the clipped gradient of each of them is
    still a function of that record alone.

    Parameters
    ----------
    records : Examples
        What is trained on.
    pixels : int
        Of :func:`shift_batch`.
    deformation : Deformation
        Of :func:`deform_each`.
    rng : Randomness
        Its keys are those of the hashes.
    """

    def __init__(self, records: Examples, pixels: int, deformation: Deformation, rng: Randomness) -> None:
        self._records, self._pixels, self._deformation = records, pixels, deformation
        self._shifts, self._deformations = rng.child("shift"), rng.child("deformation")
        self._step = 0

    @property
    def is_none(self) -> bool:
        """Whether images stay as they are."""
        return self._pixels == 0 and self._deformation.is_none

    def __call__(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return ``images``, which are those of the records at the positions ``index``, as the next step sees them."""
        number, self._step = self._step, self._step + 1
        if not self._deformation.is_none:
            digests = [self._records.digests[place] for place in index.tolist()]
            drawn = draws_of_records(self._deformations, number, digests, DRAWS)
            images = deform_each(images, self._deformation, drawn)
        # Empty steps count, too: otherwise a later step's shift would tell that an earlier sample was empty.
        return shift_batch(images, self._pixels, draws_of_step(self._shifts, number, 2)) if self._pixels else images


def shift_batch(images: torch.Tensor, pixels: int, draws: NDArray[np.float64]) -> torch.Tensor:
    """Shift all images of a batch by one offset of at most ``pixels`` in each direction.

    What moves in from outside repeats the border, which in the data sets here is background.

    Parameters
    ----------
    images : torch.Tensor
        Shape ``(n, channels, height, width)``.
    pixels : int
        Largest offset.
    draws : NDArray[np.float64]
        Uniform in [0, 1), shape ``(2,)``: the offsets down and to the right, of the step and not of a record.
    """
    if pixels == 0 or len(images) == 0:
        return images
    down, right = (int(draw * (2 * pixels + 1)) for draw in draws.tolist())
    height, width = images.shape[-2:]
    padded = functional.pad(images, (pixels,) * 4, mode="replicate")
    return padded[..., down : down + height, right : right + width]


def deform_each(images: torch.Tensor, deformation: Deformation, draws: NDArray[np.float64]) -> torch.Tensor:
    """Return each of ``images``, ``(n, 1, height, width)``, turned, sheared, scaled and moved by its own draws.

    What comes in from outside repeats the border.

    Parameters
    ----------
    draws : NDArray[np.float64]
        Uniform in [0, 1), shape ``(n, DRAWS)``.

    Raises
    ------
    ValueError
        The images have more than one channel.
    """
    if deformation.is_none or len(images) == 0:
        return images
    if images.shape[1] != 1:
        raise ValueError(f"images to deform: got {images.shape[1]} channels; 1 is allowed")
    return deform(images.squeeze(1), deformation, draws, "border")[:, None]
