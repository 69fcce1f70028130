"""Similarities to patches: their rule, their independence of other images, and their use on real pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from ppml.config.transforms import Patches
from ppml.data.transforms.dead_leaves import draw_dead_leaves
from ppml.data.transforms.extractor import ImageFeatures
from ppml.data.transforms.patches import CONTRAST, PatchCoefficients
from ppml.randomness import Randomness

SETTINGS = Patches(patches=40, size=4, grid=2, components=30, strokes=200)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(count: int, seed: int = 3, side: int = 16) -> torch.Tensor:
    return draw_dead_leaves(count, 3, side, generator(seed))


@pytest.fixture(scope="module")
def coefficients() -> PatchCoefficients:
    return PatchCoefficients(SETTINGS, leaves(200), generator(1))


def test_coefficients_are_means_of_similarities_by_area(coefficients: PatchCoefficients) -> None:
    image = leaves(1, seed=4)
    places = 16 - SETTINGS.size + 1
    found = np.empty((places, places, SETTINGS.patches))
    for row in range(places):
        for column in range(places):
            patch = image[0, :, row : row + SETTINGS.size, column : column + SETTINGS.size].flatten().double()
            patch = (patch - patch.mean()) / (patch.var(correction=0) + CONTRAST).sqrt()
            similarities = patch @ coefficients._matrix.double() + coefficients._offset.double()
            found[row, column] = similarities.clamp_min(0)
    # 13 places make areas of 7, which share the middle one.
    areas = [
        found[rows, columns].mean(axis=(0, 1)) for rows in (np.s_[:7], np.s_[6:]) for columns in (np.s_[:7], np.s_[6:])
    ]
    expected = np.concatenate(areas) / np.linalg.norm(np.concatenate(areas))
    np.testing.assert_allclose(coefficients(image)[0].numpy(), expected, atol=1e-5)


def test_similarities_have_no_common_part(coefficients: PatchCoefficients) -> None:
    torch.testing.assert_close(coefficients._matrix.sum(dim=1), torch.zeros(48), atol=1e-4, rtol=0)


def test_coefficients_of_an_image_do_not_depend_on_others(coefficients: PatchCoefficients) -> None:
    given = leaves(9, seed=5)
    whole = coefficients(given)
    assert whole.shape == (9, SETTINGS.coefficients((3, 16, 16))) and (whole >= 0).all()
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(9))
    assert all(torch.equal(coefficients(given[place, None])[0], whole[place]) for place in range(9))


def test_brightness_and_contrast_of_an_image_hardly_count(coefficients: PatchCoefficients) -> None:
    given = leaves(6, seed=6)
    similar = functional.cosine_similarity(coefficients(0.8 * given + 0.1), coefficients(given))
    other = functional.cosine_similarity(coefficients(given.roll(1, 0)), coefficients(given))
    assert similar.min() > 0.98 > other.max()


def test_flat_image_has_finite_features() -> None:
    features = ImageFeatures(SETTINGS, Randomness(1), (3, 16, 16))
    assert features.viewed(torch.full((2, 3, 16, 16), 0.5)).isfinite().all()


def test_dictionary_comes_from_synthetic_images_and_their_seed() -> None:
    first, again, other = (PatchCoefficients(SETTINGS, leaves(200), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first._matrix, again._matrix) and not torch.equal(first._matrix, other._matrix)


def test_features_separate_real_pictures(real_data) -> None:
    """On digits, ridge regression on few features has fewer than half of the errors of one on pixels."""
    shape = real_data.contract.shape
    settings = Patches(prior="strokes", patches=64, size=5, grid=3, components=100, strokes=400, regularization=1e-5)
    rule = ImageFeatures(settings, Randomness(1), shape)
    parts = [
        (torch.from_numpy(part.inputs[:600].copy()).float() / 255, part.labels[:600])
        for part in (real_data.train, real_data.test)
    ]
    errors = {}
    for name, of in (("pixels", lambda images: images.flatten(1)), ("patches", rule.viewed)):
        (train, labels), (test, expected) = ((of(images), torch.as_tensor(labels).long()) for images, labels in parts)
        gram = train.T @ train + 1e-2 * train.square().sum(dim=1).mean() * torch.eye(train.shape[1])
        weights = torch.linalg.solve(gram, train.T @ functional.one_hot(labels, 10).float())
        errors[name] = ((test @ weights).argmax(dim=1) != expected).double().mean().item()
    assert errors["patches"] < errors["pixels"] / 2
