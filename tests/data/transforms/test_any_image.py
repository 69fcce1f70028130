"""Scattering features of images of any size and number of channels, with each prior."""

from __future__ import annotations

import pytest
import scipy.special
import torch
from torch.nn import functional

from ppml.config.transforms import FeatureTransform, Patches, Scattering
from ppml.contract import DataContract
from ppml.data.transforms.dead_leaves import draw_dead_leaves
from ppml.data.transforms.extractor import BIAS, ImageFeatures
from ppml.data.transforms.scattering import GROUPS
from ppml.randomness import Randomness

PLAIN = Scattering(prior="none")
SHAPES = [(1, 8, 8), (3, 8, 8), (1, 13, 9), (3, 32, 32), (1, 64, 64), (3, 24, 40)]


def images(shape: tuple[int, ...], count: int = 3) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_features_without_a_prior_are_all_coefficients_and_a_constant(shape: tuple[int, ...]) -> None:
    found = ImageFeatures(PLAIN, Randomness(1), shape).viewed(images(shape))
    contract = PLAIN.output(DataContract(shape=shape, classes=4))
    assert found.shape == (3, PLAIN.coefficients(shape) + 1) == (3, contract.size)
    torch.testing.assert_close(found[:, :-1].norm(dim=1), torch.ones(3))
    assert (found[:, -1] == BIAS).all()


def test_colour_coefficients_are_those_of_kymatio(monkeypatch: pytest.MonkeyPatch) -> None:
    # Kymatio imports, for its transform of volumes, a function that SciPy has removed.
    monkeypatch.setattr(scipy.special, "sph_harm", None, raising=False)
    from kymatio.torch import Scattering2D

    shape = (3, 32, 32)
    reference = Scattering2D(J=2, shape=shape[1:])(images(shape)).flatten(1, 2)
    expected = functional.normalize(functional.group_norm(reference, GROUPS).flatten(1), dim=1)
    found = ImageFeatures(PLAIN, Randomness(1), shape).viewed(images(shape))
    torch.testing.assert_close(found[:, :-1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior", ["strokes", "dead_leaves"])
def test_prior_whitens_the_synthetic_images(prior: str) -> None:
    shape = (1, 20, 20)
    settings = Scattering(prior=prior, components=40, strokes=300)
    features = ImageFeatures(settings, Randomness(1), shape)
    assert features.viewed(images(shape)).shape == (3, 41)
    other = ImageFeatures(settings, Randomness(2), shape).viewed(images(shape))
    assert not torch.equal(features.viewed(images(shape)), other)


def test_features_of_colour_depend_on_their_own_image() -> None:
    shape = (3, 16, 16)
    settings = Scattering(prior="dead_leaves", components=30, strokes=100, copies=3)
    features = ImageFeatures(settings, Randomness(1), shape)
    given = draw_dead_leaves(70, 3, 16, torch.Generator().manual_seed(2))
    whole = features.copies(given)
    assert torch.equal(features.copies(given[65:67]), whole[65:67])
    moved = whole[:, 1, :-1] @ whole[:, 0, :-1].T
    assert (moved.argmax(dim=1) == torch.arange(70)).float().mean() > 0.4


def test_channels_of_a_copy_move_together() -> None:
    shape = (3, 16, 16)
    features = ImageFeatures(Scattering(prior="none", copies=2), Randomness(1), shape)
    grey = images((1, 16, 16)).expand(-1, 3, -1, -1).contiguous()
    copies = features.copies(grey)[:, 1, :-1].reshape(3, 3, -1)
    # Groups of channels are normalised together, so that equal channels stay equal only within a group.
    plain = features.plain(grey)[:, :-1].reshape(3, 3, -1)
    assert torch.equal(plain[:, 0], plain[:, 1]) and torch.equal(copies[:, 0], copies[:, 1])


@pytest.mark.parametrize("kind", [Scattering, Patches])
def test_mirror_images_have_equal_features(kind: type[FeatureTransform]) -> None:
    shape, few = (3, 12, 12), {"prior": "dead_leaves", "components": 20, "strokes": 60}
    given = images(shape)
    plain, mirrored = (
        ImageFeatures(kind.model_validate({**few, "mirror": mirror}), Randomness(1), shape) for mirror in (False, True)
    )
    torch.testing.assert_close(mirrored.viewed(given), mirrored.viewed(given.flip(-1)))
    assert not torch.allclose(plain.viewed(given), plain.viewed(given.flip(-1)), atol=0.01)


def test_coefficients_of_mirror_images_are_averaged() -> None:
    shape = (3, 12, 12)
    given = images(shape)
    plain, mirrored = (
        ImageFeatures(Scattering(prior="none", mirror=mirror), Randomness(1), shape) for mirror in (False, True)
    )
    torch.testing.assert_close(mirrored.viewed(given), (plain.viewed(given) + plain.viewed(given.flip(-1))) / 2)


def test_dead_leaves_are_discs_of_every_size_and_repeat() -> None:
    drawn = draw_dead_leaves(40, 3, 32, torch.Generator().manual_seed(5))
    assert drawn.shape == (40, 3, 32, 32) and drawn.min() >= 0 and drawn.max() <= 1
    assert torch.equal(drawn, draw_dead_leaves(40, 3, 32, torch.Generator().manual_seed(5)))
    edges = (drawn[..., 1:] != drawn[..., :-1]).any(dim=1).float().mean()
    assert 0.05 < edges < 0.8


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (PLAIN, (1, 7, 28), "8x8"),
        (PLAIN, (1, 65, 28), "64x64"),
        (Scattering(), (3, 28, 28), "strokes are grey"),
        (Scattering(components=400), (1, 8, 8), "at most 324"),
        (Patches(), (1, 7, 28), "'patches'.*8x8"),
        (Patches(prior="strokes"), (3, 28, 28), "strokes are grey; allowed: dead_leaves"),
        (Patches(patches=100, grid=2), (3, 28, 28), "at most 400"),
    ],
)
def test_images_without_features_are_refused(settings: Scattering, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(Exception, match=message):
        settings.output(DataContract(shape=shape, classes=2))


def test_components_are_at_most_the_synthetic_images() -> None:
    with pytest.raises(Exception, match="at most 50"):
        Scattering(components=51, strokes=50)
    assert Scattering(prior="none", strokes=50).components > 50


def test_first_prior_has_the_content_of_earlier_configurations() -> None:
    assert not {"prior", "mirror"} & Scattering().to_json().keys() and PLAIN.to_json()["prior"] == "none"
    assert Scattering(mirror=True).to_json()["mirror"] is True
    assert Scattering.model_validate(PLAIN.to_json()) == PLAIN
