"""Random affine copies of images: turned, sheared, scaled and moved, each by draws of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional


@dataclass(frozen=True)
class Deformation:
    """How far a copy may be from its image; every value is uniform within its range, in either direction.

    Parameters
    ----------
    rotation : float
        Degrees.
    shear, scale : float
        Relative; scale is drawn for each direction.
    shift : float
        Pixels, for each direction.
    """

    rotation: float
    shear: float
    scale: float
    shift: float

    @property
    def is_none(self) -> bool:
        """Whether a copy is its image."""
        return not (self.rotation or self.shear or self.scale or self.shift)


NO_DEFORMATION = Deformation(0.0, 0.0, 0.0, 0.0)

DRAWS = 6
"""Draws of a copy: for its turn, its shear, and its scale and its shift in each direction."""


def deform(
    images: torch.Tensor, deformation: Deformation, draws: NDArray[np.float64], outside: str = "zeros"
) -> torch.Tensor:
    """Return a copy of each image.

    Parameters
    ----------
    images : torch.Tensor
        float32, shape ``(n, height, width)``.
    deformation : Deformation
        How far a copy may be from its image.
    draws : NDArray[np.float64]
        Uniform in [0, 1), shape ``(n, DRAWS)``: those of each image.
    outside : {"zeros", "border"}
        What comes in from outside is 0, or repeats the border.

    Returns
    -------
    torch.Tensor
        float32, shape ``(n, height, width)``. A copy has the same bits whatever other images are there.
    """
    height, width = images.shape[1:]
    places = _transforms(draws, deformation, height, width).to(images.device, images.dtype)
    across, down = (_centres(size).to(images.device, images.dtype) for size in (width, height))
    # Products and sums one by one, each of which IEEE 754 rounds in one way: those of a library's matrix product may
    # depend on how many images there are.
    of_across, of_down = places[..., 0] * across[:, None], places[..., 1] * down[:, None]
    grid = (of_across[:, None, :] + of_down[:, :, None]) + places[..., 2][:, None, :]
    return functional.grid_sample(images[:, None], grid, padding_mode=outside, align_corners=False)[:, 0]


def _centres(size: int) -> torch.Tensor:
    """Return where the centres of pixels are between the edges -1 and 1, float64."""
    return (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1


def _transforms(draws: NDArray[np.float64], deformation: Deformation, height: int, width: int) -> torch.Tensor:
    """Return what leads from the places of each copy to those of its image, ``(n, 1, 2, 3)``, float64."""
    draws = draws * 2 - 1
    angle = draws[:, 0] * (deformation.rotation * math.pi / 180)
    shear = draws[:, 1] * deformation.shear
    across, down = (1 + draws[:, 2:4] * deformation.scale).T
    moved = draws[:, 4:6] * (2 * deformation.shift / np.array([width, height]))
    # One by one, since the last bits of a library's cosine may depend on the place of a value among others.
    cosine, sine = (np.array([one(value) for value in angle.tolist()]) for one in (math.cos, math.sin))
    rows = [
        [cosine * across, (shear * cosine - sine) * down, moved[:, 0]],
        [sine * across, (shear * sine + cosine) * down, moved[:, 1]],
    ]
    return torch.from_numpy(np.array(rows, dtype=np.float64).reshape(2, 3, -1).transpose(2, 0, 1).copy())[:, None]
