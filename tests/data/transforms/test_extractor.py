"""Features depend on their image only, and copies of an image cost no privacy."""

from __future__ import annotations

import pytest
import torch

from ppml.config.datasets import DATASETS, DIGITS
from ppml.config.transforms import Scattering
from ppml.data.examples import Examples
from ppml.data.transforms import extractor
from ppml.data.transforms.extractor import ImageFeatures
from ppml.data.transforms.strokes import draw_strokes
from ppml.data.transforms.whitening import Whitening
from ppml.example_draws import draws_per_example
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness

CONTRACT = DATASETS[DIGITS].contract
SETTINGS = Scattering(components=50, strokes=60, copies=3)


@pytest.fixture(scope="module")
def images(real_data):
    return torch.from_numpy(real_data.train.inputs[:30].copy()).float() / 255


@pytest.fixture(scope="module")
def features(images):
    return ImageFeatures(SETTINGS, Randomness(1))


def test_features_have_unit_norm_and_a_constant(features, images):
    plain, copies = features.plain(images), features.copies(images)
    assert plain.shape == (30, 51) == (30, features.size) and copies.shape == (30, 3, 51)
    torch.testing.assert_close(plain[:, :-1].norm(dim=1), torch.ones(30))
    assert (copies[..., -1] == 0.1).all()
    assert torch.equal(copies[:, 0], plain)
    # A copy differs from its image, and is more similar to it than to another image.
    other = copies[:, 1, :-1] @ plain[:, :-1].T
    assert (other.diagonal() < 0.999).all() and (other.argmax(dim=1) == torch.arange(30)).float().mean() > 0.9


def test_seed_decides_bits_of_features(features, images):
    assert torch.equal(ImageFeatures(SETTINGS, Randomness(1)).copies(images), features.copies(images))
    assert not torch.equal(ImageFeatures(SETTINGS, Randomness(2)).plain(images), features.plain(images))


def test_views_are_averaged_and_differ_from_training_copies(features, images):
    plain, copies = features.plain(images), features.copies(images)
    assert torch.equal(features.viewed(images), plain), "the single view is the image"
    two = ImageFeatures(SETTINGS.model_copy(update={"views": 2}), Randomness(1)).viewed(images)
    view = 2 * two - plain
    torch.testing.assert_close(view[:, :-1].norm(dim=1), torch.ones(30))
    assert ((view - copies[:, 1]).norm(dim=1) > 0.01).all()
    assert (view[:, :-1] @ plain[:, :-1].T).argmax(dim=1).eq(torch.arange(30)).float().mean() > 0.8


def with_duplicates(real_data, count):
    """Return ``count`` images; of three or more, some neighbours and some distant ones are equal."""
    images = torch.from_numpy(real_data.train.inputs[:count].copy()).float() / 255
    if count > 2:
        images[1], images[-1] = images[0], images[count // 2]
    return images


FEW = SETTINGS.model_copy(update={"copies": 2, "views": 2})


def extract(records=None):
    """Return a feature extractor, which takes nothing from ``records``."""
    return ImageFeatures(FEW, Randomness(1))


@pytest.fixture(scope="module")
def extracted():
    return extract()


def all_features(rule, images):
    """Return all features of each image, ``(n, kinds, size)``; the first copy is the image."""
    return torch.cat([rule.copies(images), rule.viewed(images)[:, None]], dim=1)


def check_features_depend_on_own_image(make, images, left_out=("first", "middle", "last"), of=all_features):
    """Leave out an image, or change the order: the features of the other images must keep their bits."""
    whole, count = of(make(images), images), len(images)
    places = {"first": 0, "middle": count // 2, "last": count - 1}
    changes = [[other for other in range(count) if other != place] for place in {places[name] for name in left_out}]
    if count < 1000:
        changes.append(torch.randperm(count, generator=torch.Generator().manual_seed(1)).tolist())
    for others in changes:
        assert torch.equal(of(make(images[others]), images[others]), whole[others])


@pytest.mark.parametrize("count", [1, 2, 37])
def test_features_of_image_do_not_depend_on_other_images(extracted, real_data, count):
    check_features_depend_on_own_image(lambda records: extracted, with_duplicates(real_data, count))


def test_features_do_not_depend_on_other_images_of_a_thousand(extracted, real_data):
    images = with_duplicates(real_data, 1000)
    check_features_depend_on_own_image(lambda records: extracted, images, of=ImageFeatures.copies)


def test_extractor_learns_nothing_from_images(images):
    check_features_depend_on_own_image(extract, images, ["first"])


def test_no_images_have_no_features(extracted, images):
    assert extracted.copies(images[:0]).shape == (0, 2, 51) and extracted.viewed(images[:0]).shape == (0, 51)


def test_equal_images_have_equal_features_and_different_copies(real_data):
    images = with_duplicates(real_data, 20)
    found = ImageFeatures(SETTINGS, Randomness(1)).copies(images)
    assert torch.equal(found[0], found[1]) and torch.equal(found[-1], found[10])
    assert not torch.equal(found[0, 1], found[0, 2]) and not torch.equal(found[0, 1], found[2, 1])


def by_position(rng, number, digests, count):
    """Draw for all examples in order from one generator, as many programs do."""
    return rng.child(number).numpy().random((len(digests), count))


def without_key(rng, number, digests, count):
    """Return the same draws for all copies and all purposes."""
    return draws_per_example(Randomness(0), 0, digests, count)


@pytest.mark.parametrize("place", ["first", "middle"])
def test_draws_by_position_are_detected(extracted, images, monkeypatch, place):
    monkeypatch.setattr(extractor, "draws_per_example", by_position)
    with pytest.raises(AssertionError):
        check_features_depend_on_own_image(lambda records: extracted, images, [place])


def test_statistic_of_all_images_is_detected(extracted, images, monkeypatch):
    def centred(self, images, *draws, **changes):
        return kind(self, images - images.mean(dim=0), *draws, **changes)

    kind = ImageFeatures._kind
    monkeypatch.setattr(ImageFeatures, "_kind", centred)
    with pytest.raises(AssertionError):
        check_features_depend_on_own_image(lambda records: extracted, images, ["last"])


def test_equal_draws_of_copies_are_detected(real_data, monkeypatch):
    monkeypatch.setattr(extractor, "draws_per_example", without_key)
    with pytest.raises(AssertionError):
        test_equal_images_have_equal_features_and_different_copies(real_data)


@pytest.mark.parametrize("place", ["strokes", "whitening"])
def test_private_images_in_strokes_or_whitening_are_detected(images, monkeypatch, place):
    def leaky(records):
        if place == "strokes":

            def drawn(count, generator):
                return torch.cat([draw_strokes(count - 20, generator), records[-20:, 0]])

            monkeypatch.setattr(extractor, "draw_strokes", drawn)
            return extract()
        rule = extract()
        rule._whitening, rule.size = Whitening.fit(rule._coefficients(records), 20, 1e-3), 21
        return rule

    with pytest.raises(AssertionError):
        check_features_depend_on_own_image(leaky, images, ["first"])


def released(records, *, copies_as_examples=False):
    """Return the sum of clipped gradients, without noise, of one full-batch step from random weights."""
    if copies_as_examples:
        copies = records.inputs.shape[1]
        records = Examples(records.inputs.flatten(0, 1), records.labels.repeat_interleave(copies))
    model = build_model("linear", CONTRACT.features(records.inputs.shape[-1]), torch.Generator())
    torch.nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(5))
    sums = []
    learner = DpSgdLearner(
        Settings(epochs=1, batch_size="all", learning_rate=1.0),
        noise_multiplier=0.0,
        max_grad_norm=0.5,
        on_release=lambda gradients: sums.append(gradients[0].clone() * len(records)),
    )
    events = learner.fit(model, records, window=TrainingWindow(), rng=Randomness(1))
    assert [(event.sample_rate, event.steps) for event in events] == [(1.0, 1)]
    return sums[0]


def check_sensitivity_is_clipping_norm(features, images, **how):
    """Compare the sum over all images with sums over new features of all images but one."""
    labels = torch.arange(len(images)) % 10
    whole = released(Examples(features.copies(images), labels), **how)
    for left_out in (0, 7):
        others = torch.tensor([place for place in range(len(images)) if place != left_out])
        without = released(Examples(features.copies(images[others]), labels[others]), **how)
        # Every gradient is clipped here, so that the bound is reached.
        assert 0.45 < (whole - without).norm() <= 0.5 * (1 + 1e-5)


def test_copies_do_not_change_sensitivity(features, images):
    check_sensitivity_is_clipping_norm(features, images)


def test_separately_clipped_copies_are_detected(features, images):
    with pytest.raises(AssertionError):
        check_sensitivity_is_clipping_norm(features, images, copies_as_examples=True)


def test_copies_drawn_by_position_raise_sensitivity(features, images, monkeypatch):
    monkeypatch.setattr(extractor, "draws_per_example", by_position)
    with pytest.raises(AssertionError):
        check_sensitivity_is_clipping_norm(features, images)
