"""Random affine copies of images: rotated, sheared, scaled and shifted, each with its own random draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional


@dataclass(frozen=True)
class Deformation:
    """The largest changes of a copy; each change is uniform between minus and plus this value.

    Parameters
    ----------
    rotation : float
        Degrees.
    shear, scale : float
        Relative; the scale of each direction has a draw.
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
"""Random draws of a copy: rotation, shear, and scale and shift in each direction."""


def deform(
    images: torch.Tensor, deformation: Deformation, draws: NDArray[np.float64], outside: str = "zeros"
) -> torch.Tensor:
    """Return a copy of each image.

    Parameters
    ----------
    images : torch.Tensor
        float32, shape ``(n, height, width)``.
    deformation : Deformation
        The largest changes of a copy.
    draws : NDArray[np.float64]
        Uniform in [0, 1), shape ``(n, DRAWS)``, a row for each image.
    outside : {"zeros", "border"}
        Pixels from outside the image: 0, or those of the border.

    Returns
    -------
    torch.Tensor
        float32, shape ``(n, height, width)``. No bit of a copy depends on the other images.
    """
    height, width = images.shape[1:]
    places = _transforms(draws, deformation, height, width).to(images.device, images.dtype)
    across, down = (_centres(size).to(images.device, images.dtype) for size in (width, height))
    # Single products and sums, which IEEE 754 rounds in one way: the rounding of a library's matrix product may depend
    # on the number of images.
    of_across, of_down = places[..., 0] * across[:, None], places[..., 1] * down[:, None]
    grid = (of_across[:, None, :] + of_down[:, :, None]) + places[..., 2][:, None, :]
    return functional.grid_sample(images[:, None], grid, padding_mode=outside, align_corners=False)[:, 0]


def _centres(size: int) -> torch.Tensor:
    """Return the centres of pixels between the edges -1 and 1, float64."""
    return (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1


def _transforms(draws: NDArray[np.float64], deformation: Deformation, height: int, width: int) -> torch.Tensor:
    """Return the affine maps from pixels of each copy to pixels of its image, ``(n, 1, 2, 3)``, float64."""
    draws = draws * 2 - 1
    angle = draws[:, 0] * (deformation.rotation * math.pi / 180)
    shear = draws[:, 1] * deformation.shear
    across, down = (1 + draws[:, 2:4] * deformation.scale).T
    moved = draws[:, 4:6] * (2 * deformation.shift / np.array([width, height]))
    # Value by value: the last bits of a library's cosine may depend on the position of a value in its array.
    cosine, sine = (np.array([one(value) for value in angle.tolist()]) for one in (math.cos, math.sin))
    rows = [
        [cosine * across, (shear * cosine - sine) * down, moved[:, 0]],
        [sine * across, (shear * sine + cosine) * down, moved[:, 1]],
    ]
    return torch.from_numpy(np.array(rows, dtype=np.float64).reshape(2, 3, -1).transpose(2, 0, 1).copy())[:, None]
