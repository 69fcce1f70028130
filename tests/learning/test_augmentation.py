from __future__ import annotations

import numpy as np
import pytest
import torch

from ppml.data.examples import Examples
from ppml.data.transforms.deformation import DRAWS, NO_DEFORMATION, Deformation
from ppml.example_draws import draws_per_example, draws_per_step
from ppml.learning.augmentation import Augmentation, deform_each, shift_batch
from ppml.randomness import Randomness

from .digits import FAR


def batch() -> torch.Tensor:
    """Return images with distinct pixels and borders."""
    return torch.arange(3 * 28 * 28, dtype=torch.float32).reshape(3, 1, 28, 28)


def shifted(images: torch.Tensor, pixels: int, seed: int = 0) -> torch.Tensor:
    return shift_batch(images, pixels, np.random.default_rng(seed).random(2))


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


def test_zero_shift_changes_nothing():
    assert torch.equal(shifted(batch(), 0), batch())


def test_shift_accepts_empty_batch():
    assert shifted(batch()[:0], 2).shape == (0, 1, 28, 28)


@pytest.mark.parametrize("seed", range(5))
def test_batch_has_one_offset(seed):
    moved = offsets(batch(), shifted(batch(), 2, seed), 2)
    assert len(moved) == 3
    assert len(set(moved)) == 1


def test_all_offsets_occur():
    seen = {offsets(batch()[:1], shifted(batch()[:1], 1, seed), 1)[0] for seed in range(100)}
    assert len(seen) == 9
    ends = [shift_batch(batch()[:1], 1, np.full(2, draw)) for draw in (0.0, 1 - 2.0**-53)]
    assert [offsets(batch()[:1], end, 1)[0] for end in ends] == [(1, 1), (-1, -1)]


def test_offset_is_independent_of_images():
    other = batch().flip(0) * 2
    for seed in range(5):
        assert offsets(batch(), shifted(batch(), 2, seed), 2) == offsets(other, shifted(other, 2, seed), 2)


def test_shift_repeats_border():
    images = torch.full((2, 1, 28, 28), -0.42)
    assert torch.equal(shifted(images, 8), images)


def deformed(images: torch.Tensor, how: Deformation = FAR, seed: int = 0) -> torch.Tensor:
    return deform_each(images, how, np.random.default_rng(seed).random((len(images), DRAWS)))


def test_zero_deformation_changes_nothing():
    assert torch.equal(deformed(batch(), NO_DEFORMATION), batch())


def test_each_image_has_its_own_deformation():
    same = batch()[:1].repeat(3, 1, 1, 1)
    after = deformed(same)
    assert after.shape == same.shape
    assert not torch.equal(after[0], after[1]) and not torch.equal(after[1], after[2])
    others = torch.cat([batch()[:1], 7 * batch()[1:]])
    assert torch.equal(deformed(batch())[0], deformed(others)[0])


def test_deformation_repeats_border():
    flat = torch.full((4, 1, 28, 28), -0.42)
    assert torch.allclose(deformed(flat), flat)
    # A digit's border is background; zeros would be a different colour.
    moved = deformed(flat, Deformation(0.0, 0.0, 0.0, 10.0))
    assert torch.allclose(moved, flat)


def test_deformation_shift_is_bounded():
    dot = torch.zeros(200, 1, 28, 28)
    dot[:, :, 14, 14] = 1.0
    moved = deformed(dot, Deformation(0.0, 0.0, 0.0, 2.0))
    rows, columns = moved.sum(dim=3)[:, 0], moved.sum(dim=2)[:, 0]
    places = torch.stack([(part * torch.arange(28.0)).sum(dim=1) for part in (rows, columns)])
    assert (places - 14).abs().max() <= 2.0 + 1e-4
    assert (places - 14).abs().max() > 1.8


def test_deformation_refuses_several_channels():
    with pytest.raises(ValueError, match="got 3 channels; 1 is allowed"):
        deformed(batch().repeat(1, 3, 1, 1))


def some_examples() -> Examples:
    return Examples(batch(), torch.tensor([3, 1, 4]))


def test_step_deforms_before_it_shifts():
    rng, examples = Randomness(3), some_examples()
    augment, index = Augmentation(examples, 2, FAR, rng), torch.tensor([2, 0])
    for step in range(3):
        drawn = draws_per_example(rng.child("deformation"), step, [examples.digests[2], examples.digests[0]], DRAWS)
        deformed_ = deform_each(examples.inputs[index], FAR, drawn)
        expected = shift_batch(deformed_, 2, draws_per_step(rng.child("shift"), step, 2))
        assert torch.equal(augment(examples.inputs[index], index), expected)
    assert not augment.is_none and Augmentation(examples, 0, NO_DEFORMATION, rng).is_none


@pytest.mark.parametrize("how", [(2, NO_DEFORMATION), (0, FAR), (2, FAR)], ids=["shift", "deformation", "both"])
def test_steps_and_seeds_have_different_draws(how):
    examples, everything = some_examples(), torch.arange(3)
    first, other = Augmentation(examples, *how, Randomness(1)), Augmentation(examples, *how, Randomness(2))
    seen = [augment(examples.inputs, everything) for augment in (first, other) for _ in range(5)]
    assert len({one.numpy().tobytes() for one in seen}) > 6, "two shifts of 25 may be equal"
