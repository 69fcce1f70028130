"""The scattering transform against an independent implementation, and its mathematical properties."""

from __future__ import annotations

import math

import pytest
import scipy.special
import torch

from ppml.data.transforms.scattering import ScatteringTransform


@pytest.fixture
def images(real_data):
    return torch.from_numpy(real_data.train.inputs[:8, 0].copy()).float() / 255


@pytest.mark.parametrize("scales", [2, 3])
def test_transform_equals_kymatio(images, scales, monkeypatch):
    # Kymatio imports, for its transform of volumes, a function that SciPy has removed.
    monkeypatch.setattr(scipy.special, "sph_harm", None, raising=False)
    from kymatio.torch import Scattering2D

    ours, angles = ScatteringTransform(scales=scales), 8
    found = ours(images)
    reference = Scattering2D(J=scales, shape=(28, 28), L=angles)(images)
    assert found.shape == reference.shape == (8, ours.channels, ours.width, ours.width)
    # A coefficient of order n passes n + 1 filters; kymatio divides each filter by 3.1415 instead of pi.
    order = torch.ones(ours.channels)
    order[1:] += 1
    order[1 + scales * angles :] += 1
    factor = (3.1415 / math.pi) ** order
    assert (found - reference * factor[:, None, None]).abs().max() < 1e-5


def test_constant_image_has_average_only():
    found = ScatteringTransform()(torch.full((1, 28, 28), 0.7))[0]
    torch.testing.assert_close(found[0], torch.full((7, 7), 0.7), atol=1e-4, rtol=0)
    assert found[1:].abs().max() < 1e-4


def test_coefficients_do_not_expand_distances_and_are_proportional_to_image(images):
    transform = ScatteringTransform()
    first, second = transform(images[:4]), transform(images[4:])
    distances = (images[:4] - images[4:]).flatten(1).norm(dim=1)
    # Each channel is sampled at every fourth pixel of each direction.
    assert (4 * (first - second).flatten(1).norm(dim=1) < distances).all()
    torch.testing.assert_close(transform(images[:4] * 0.5), first * 0.5)


def test_shift_by_one_pixel_changes_coefficients_less_than_pixels(images):
    transform = ScatteringTransform()

    def change(of, moved):
        return (of - moved).norm() / of.norm()

    moved = images.roll(1, dims=2)
    # On MNIST the factor is 0.5; scikit-learn's enlarged digits are smooth, so that a shift changes fewer pixels.
    assert change(transform(images), transform(moved)) < 0.75 * change(images, moved)


def test_coefficients_of_image_do_not_depend_on_other_images(images):
    transform = ScatteringTransform()
    torch.testing.assert_close(transform(images)[6:7], transform(images[6:7]), atol=1e-6, rtol=0)
