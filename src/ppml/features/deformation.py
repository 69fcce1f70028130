"""Random affine copies of images: turned, sheared, scaled and moved, each by a draw that does not look at the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
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


def deform(
    images: torch.Tensor, deformation: Deformation, generator: torch.Generator, outside: str = "zeros"
) -> torch.Tensor:
    """Return a copy of each image, float32 ``(n, height, width)``.

    What comes in from ``outside`` is 0 ("zeros"), or repeats the border ("border").
    """
    count, height, width = images.shape
    draws = torch.rand(count, 6, generator=generator) * 2 - 1
    angle = draws[:, 0] * (deformation.rotation * math.pi / 180)
    shear = draws[:, 1] * deformation.shear
    across, down = (1 + draws[:, 2:4] * deformation.scale).unbind(dim=1)
    cosine, sine = angle.cos(), angle.sin()
    # From the places of the copy to those of the image.
    matrix = torch.stack(
        [
            torch.stack([cosine * across, (shear * cosine - sine) * down], dim=1),
            torch.stack([sine * across, (shear * sine + cosine) * down], dim=1),
        ],
        dim=1,
    )
    moved = draws[:, 4:6] * (2 * deformation.shift / torch.tensor([width, height]))
    grid = functional.affine_grid(
        torch.cat([matrix, moved[:, :, None]], dim=2), [count, 1, height, width], align_corners=False
    )
    return functional.grid_sample(images[:, None], grid, padding_mode=outside, align_corners=False)[:, 0]
