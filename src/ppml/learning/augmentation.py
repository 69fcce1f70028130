"""Augmentation by random shifts, the same for a whole batch."""

from __future__ import annotations

import torch
from torch.nn import functional


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
