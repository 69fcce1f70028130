"""A prior for handwriting without private examples: random curves, drawn with a pen and centred as in MNIST."""

from __future__ import annotations

import torch

SIZE = 28
FRAME = 20.0
"""The longer side of a drawing in pixels: MNIST's digits fill a square of 20 pixels and are centred by mass."""
STROKES = 3
"""The largest number of strokes per drawing."""
POINTS = 40
"""Points per stroke."""
AT_ONCE = 200
"""Drawings per call."""


def draw_strokes(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``count`` drawings, float32 ``(count, 28, 28)``, with background 0 and ink 1.

    A drawing has one to three strokes, cubic Bezier curves with random control points, and one random width of the
    pen, 1.6 to 3.6 pixels. They depend on no image; all their knowledge of digits is in this module.
    """
    parts = [min(AT_ONCE, count - start) for start in range(0, count, AT_ONCE)]
    return torch.cat([_draw(part, generator) for part in parts])


def _draw(count: int, generator: torch.Generator) -> torch.Tensor:
    used = torch.randint(1, STROKES + 1, (count, 1), generator=generator) > torch.arange(STROKES)
    points = _curves(count, generator)
    used = used[..., None].expand(points.shape[:-1])
    radius = 0.8 + torch.rand(count, generator=generator)
    points = _centred(points.flatten(1, 2), used.flatten(1), radius)
    rows = torch.arange(SIZE, dtype=torch.float32)
    # Squared distances between all pixels and all points, for each direction.
    down, right = ((points[:, :, None, axis] - rows).square() for axis in (0, 1))
    far = torch.where(used.flatten(1), 0.0, 1e6)[..., None]
    nearest = torch.full((count, SIZE, SIZE), torch.inf)
    for point in range(points.shape[1]):
        distances = (down[:, point] + far[:, point])[:, :, None] + right[:, point][:, None, :]
        torch.minimum(nearest, distances, out=nearest)
    # The pen covers half of a pixel at its rim.
    return (radius[:, None, None] - nearest.sqrt() + 0.5).clamp_(0.0, 1.0)


def _curves(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return cubic Bezier curves, shape ``(count, STROKES, POINTS, 2)``."""
    control = torch.rand(count, STROKES, 4, 2, generator=generator)
    t = torch.linspace(0.0, 1.0, POINTS)
    weights = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    return torch.einsum("pk,nskc->nspc", weights, control)


def _centred(points: torch.Tensor, used: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Scale drawings, shape ``(n, points, 2)``, to the frame, and move their centre of mass to the middle."""
    inside = used[..., None]
    low = torch.where(inside, points, torch.inf).amin(dim=1)
    high = torch.where(inside, points, -torch.inf).amax(dim=1)
    scale = (FRAME - 2 * radius) / (high - low).amax(dim=1).clamp_min(1e-3)
    mass = (points * inside).sum(dim=1) / used.sum(dim=1, keepdim=True)
    return (points - mass[:, None]) * scale[:, None, None] + (SIZE - 1) / 2
