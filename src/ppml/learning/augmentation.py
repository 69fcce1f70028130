"""Augmentation: one random shift per batch, or one random deformation per image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ppml.data.examples import Examples
from ppml.data.transforms.deformation import DRAWS, Deformation, deform
from ppml.example_draws import draws_per_example, draws_per_step
from ppml.randomness import Randomness


class Augmentation:
    """Random shifts and deformations of the images of each step.

    A keyed hash of the example and the step number gives the deformation; a keyed hash of the step number alone gives
    the shift. So the augmented image is a function of its example and the step. It does not depend on other examples,
    their order or the sample. Adding an example therefore changes the sum of clipped gradients by at most the clipping
    norm. This holds for every key, also for a key that the adversary knows: augmentation stays seeded if noise and
    samples come from the operating system.

    Equal examples get the same deformation in a step. This has no privacy cost, since the clipped gradient of each of
    them is still a function of that example alone.

    Parameters
    ----------
    examples : Examples
        Training data.
    pixels : int
        Largest shift; see :func:`shift_batch`.
    deformation : Deformation
        Ranges; see :func:`deform_each`.
    rng : Randomness
        Source of the hash keys.
    """

    def __init__(self, examples: Examples, pixels: int, deformation: Deformation, rng: Randomness) -> None:
        self._examples, self._pixels, self._deformation = examples, pixels, deformation
        self._shifts, self._deformations = rng.child("shift"), rng.child("deformation")
        self._step = 0

    @property
    def is_none(self) -> bool:
        """True if images stay unchanged."""
        return self._pixels == 0 and self._deformation.is_none

    def __call__(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return the augmented ``images`` of the examples at the positions ``index`` for the next step."""
        number, self._step = self._step, self._step + 1
        if not self._deformation.is_none:
            digests = [self._examples.digests[place] for place in index.tolist()]
            drawn = draws_per_example(self._deformations, number, digests, DRAWS)
            images = deform_each(images, self._deformation, drawn)
        # Count empty steps, too: otherwise a later shift would reveal that an earlier sample was empty.
        return shift_batch(images, self._pixels, draws_per_step(self._shifts, number, 2)) if self._pixels else images


def shift_batch(images: torch.Tensor, pixels: int, draws: NDArray[np.float64]) -> torch.Tensor:
    """Shift all images of a batch by one offset of at most ``pixels`` in each direction.

    New border pixels repeat the old border, which is background in these data sets.

    Parameters
    ----------
    images : torch.Tensor
        Shape ``(n, channels, height, width)``.
    pixels : int
        Largest offset.
    draws : NDArray[np.float64]
        Uniform in [0, 1), shape ``(2,)``: the offsets of the step, down and to the right.
    """
    if pixels == 0 or len(images) == 0:
        return images
    down, right = (int(draw * (2 * pixels + 1)) for draw in draws.tolist())
    height, width = images.shape[-2:]
    padded = functional.pad(images, (pixels,) * 4, mode="replicate")
    return padded[..., down : down + height, right : right + width]


def deform_each(images: torch.Tensor, deformation: Deformation, draws: NDArray[np.float64]) -> torch.Tensor:
    """Rotate, shear, scale and shift each of ``images``, ``(n, 1, height, width)``, by its own draws.

    New border pixels repeat the old border.

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
