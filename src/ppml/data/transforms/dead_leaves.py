"""A prior for pictures of objects without private examples: discs of random colours that cover each other.

Dead leaves have the statistics of natural images (Lee, Mumford and Huang 2001; Baradad et al., arXiv 2106.05963): edges
at every scale, since the number of discs falls with the third power of their radius.
"""

from __future__ import annotations

import torch

DISCS = 96
"""Discs of an image, the last ones on top."""
SMALLEST = 1.0
"""The smallest radius in pixels."""
AT_ONCE = 500
"""Images per call."""


def draw_dead_leaves(count: int, channels: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``count`` images, float32 ``(count, channels, side, side)``, from 0 to 1.

    They depend on no image of the data.
    """
    parts = [min(AT_ONCE, count - start) for start in range(0, count, AT_ONCE)]
    return torch.cat([_draw(part, channels, side, generator) for part in parts])


def _draw(count: int, channels: int, side: int, generator: torch.Generator) -> torch.Tensor:
    images = torch.rand(count, channels, 1, 1, generator=generator).expand(-1, -1, side, side).clone()
    pixels = torch.arange(side, dtype=torch.float32)
    largest = side / 2
    # The inverse of the distribution function of radii with density r^-3.
    uniform = torch.rand(count, DISCS, generator=generator)
    radii = (SMALLEST**-2 - uniform * (SMALLEST**-2 - largest**-2)) ** -0.5
    centres = torch.rand(count, DISCS, 2, generator=generator) * side
    # Colours of one disc are near each other: most objects are grey, and few have a strong colour.
    light = torch.rand(count, DISCS, 1, generator=generator)
    tint = torch.randn(count, DISCS, channels, generator=generator) * 0.15
    colours = (light + tint).clamp_(0.0, 1.0)
    for disc in range(DISCS):
        down, right = ((centres[:, disc, axis, None] - pixels).square() for axis in (0, 1))
        inside = down[:, :, None] + right[:, None, :] < radii[:, disc, None, None].square()
        images = torch.where(inside[:, None], colours[:, disc, :, None, None], images)
    return images
