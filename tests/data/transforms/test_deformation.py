"""Random affine copies of images."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from ppml.data.transforms.deformation import DRAWS, Deformation, deform

STILL = Deformation(rotation=0, shear=0, scale=0, shift=0)


@pytest.fixture
def disc():
    """Return a disc of radius 3 whose centre is 6 pixels right of the middle."""
    down, right = torch.meshgrid(torch.arange(28.0) - 13.5, torch.arange(28.0) - 13.5, indexing="ij")
    return (down**2 + (right - 6) ** 2 < 9).float().expand(200, 28, 28)


def centre(images):
    places = torch.arange(28.0) - 13.5
    mass = images.sum(dim=(1, 2))
    return torch.stack([(images.sum(dim=axis) * places).sum(dim=1) / mass for axis in (2, 1)], dim=1)


def draws(count):
    return np.random.default_rng(1).random((count, DRAWS))


def deformed(images, **changes):
    return deform(images, Deformation(**{**vars(STILL), **changes}), draws(len(images)))


def test_copy_without_deformation_is_its_image(disc):
    torch.testing.assert_close(deformed(disc), disc, atol=1e-5, rtol=0)


def test_rotation_keeps_distance_from_centre_and_its_range(disc):
    down, right = centre(deformed(disc, rotation=30)).unbind(dim=1)
    torch.testing.assert_close((down**2 + right**2).sqrt(), torch.full((200,), 6.0), atol=0.1, rtol=0)
    degrees = torch.atan2(down, right) * 180 / math.pi
    assert 25 < degrees.max() < 30.5 and -30.5 < degrees.min() < -25


def test_shift_is_in_pixels(disc):
    moved = centre(deformed(disc, shift=2)) - centre(disc)
    for axis in (0, 1):
        assert 1.9 < moved[:, axis].max() < 2.05 and -2.05 < moved[:, axis].min() < -1.9


def test_scale_and_shear_change_size_and_slant(disc):
    right = centre(deformed(disc, scale=0.2))[:, 1]
    assert 7.2 < right.max() < 7.6 and 4.9 < right.min() < 5.2
    bar = torch.zeros(200, 28, 28)
    bar[:, 4:24, 12:16] = 1
    sheared = deformed(bar, shear=0.3)
    # The centre of its upper half is 5 pixels above the centre of the image.
    sheared[:, 14:] = 0
    top = centre(sheared)[:, 1]
    assert 1.4 < top.max() < 1.55 and -1.55 < top.min() < -1.4


FAR = {"rotation": 10, "shear": 0.1, "scale": 0.1, "shift": 1.5}


@pytest.fixture
def noise():
    return torch.rand(100, 28, 28, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("outside", ["zeros", "border"])
def test_deformation_equals_torch(noise, outside):
    turned = deform(noise, Deformation(**FAR), draws(100), outside)
    drawn = torch.from_numpy(draws(100) * 2 - 1)
    angle, shear = drawn[:, 0] * math.radians(10), drawn[:, 1] * 0.1
    zero, one = torch.zeros(100), torch.ones(100)

    def matrices(*rows):
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1).double()

    rotation = matrices([angle.cos(), -angle.sin()], [angle.sin(), angle.cos()])
    matrix = rotation @ matrices([one, shear], [zero, one])
    matrix = matrix * (1 + drawn[:, None, 2:4] * 0.1)
    grid = functional.affine_grid(
        torch.cat([matrix, drawn[:, 4:6, None] * 3 / 28], dim=2).float(), [100, 1, 28, 28], align_corners=False
    )
    expected = functional.grid_sample(noise[:, None], grid, padding_mode=outside, align_corners=False)[:, 0]
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("chosen", [[0], [99], [40, 3], range(1, 100), range(99, -1, -1), range(37)], ids=len)
def test_copy_does_not_depend_on_other_images(noise, chosen):
    chosen, drawn = list(chosen), draws(100)
    whole = deform(noise, Deformation(**FAR), drawn)
    assert torch.equal(deform(noise[chosen], Deformation(**FAR), drawn[chosen]), whole[chosen])
