from __future__ import annotations

import pytest
import torch

from ppml.learning.augmentation import shift_batch


def batch() -> torch.Tensor:
    """Return images whose pixels are all different, with a border of their own value as data sets have."""
    return torch.arange(3 * 28 * 28, dtype=torch.float32).reshape(3, 1, 28, 28)


def shifted(images: torch.Tensor, pixels: int, seed: int = 0) -> torch.Tensor:
    return shift_batch(images, pixels, torch.Generator().manual_seed(seed))


def offsets(before: torch.Tensor, after: torch.Tensor, pixels: int) -> list[tuple[int, int]]:
    """Return for each image the offset (down, right) of its inner part."""
    found = []
    inner = slice(pixels, 28 - pixels)
    for old, new in zip(before[:, 0], after[:, 0], strict=True):
        for down in range(-pixels, pixels + 1):
            for right in range(-pixels, pixels + 1):
                moved = torch.roll(old, (down, right), dims=(0, 1))
                if torch.equal(moved[inner, inner], new[inner, inner]):
                    found.append((down, right))
    return found


def test_no_pixels_leave_the_images_as_they_are():
    assert torch.equal(shifted(batch(), 0), batch())


@pytest.mark.parametrize("pixels", [1, 2, 8])
def test_shape_stays(pixels):
    assert shifted(batch(), pixels).shape == batch().shape


def test_an_empty_batch_stays_empty():
    assert shifted(batch()[:0], 2).shape == (0, 1, 28, 28)


@pytest.mark.parametrize("seed", range(5))
def test_every_image_of_a_batch_moves_by_the_same_offset(seed):
    moved = offsets(batch(), shifted(batch(), 2, seed), 2)
    assert len(moved) == 3
    assert len(set(moved)) == 1


def test_all_offsets_occur():
    seen = {offsets(batch()[:1], shifted(batch()[:1], 1, seed), 1)[0] for seed in range(100)}
    assert len(seen) == 9


def test_the_offset_does_not_depend_on_the_images():
    other = batch().flip(0) * 2
    for seed in range(5):
        assert offsets(batch(), shifted(batch(), 2, seed), 2) == offsets(other, shifted(other, 2, seed), 2)


def test_what_moves_in_repeats_the_border():
    images = torch.full((2, 1, 28, 28), -0.42)
    assert torch.equal(shifted(images, 3), images)
