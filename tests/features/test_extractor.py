"""Features of an image: what they depend on, and that copies of it cost no privacy."""

from __future__ import annotations

import pytest
import torch

from ppml.config.features import Scattering
from ppml.data.examples import Examples
from ppml.features import extractor
from ppml.features.extractor import ScatteringFeatures
from ppml.features.strokes import draw_strokes
from ppml.features.whitening import Whitening
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings
from ppml.learning.schedule import Span
from ppml.models.registry import build_model
from ppml.randomness import Randomness

SETTINGS = Scattering(components=50, strokes=60, copies=3)


@pytest.fixture(scope="module")
def images(real_data):
    return torch.from_numpy(real_data.train.images[:30].copy())[:, None].float() / 255


@pytest.fixture(scope="module")
def features(images):
    return ScatteringFeatures(SETTINGS, Randomness(1))


def test_features_have_unit_norm_and_a_constant(features, images):
    plain, copies = features.plain(images), features.copies(images)
    assert plain.shape == (30, 51) == (30, features.size) and copies.shape == (30, 3, 51)
    torch.testing.assert_close(plain[:, :-1].norm(dim=1), torch.ones(30))
    assert (copies[..., -1] == 0.1).all()
    assert torch.equal(copies[:, 0], plain)
    # A copy is another image, and more like its own than like another's.
    other = copies[:, 1, :-1] @ plain[:, :-1].T
    assert (other.diagonal() < 0.999).all() and (other.argmax(dim=1) == torch.arange(30)).float().mean() > 0.9


def test_the_same_seed_gives_the_same_bits(features, images):
    assert torch.equal(ScatteringFeatures(SETTINGS, Randomness(1)).copies(images), features.copies(images))
    assert not torch.equal(ScatteringFeatures(SETTINGS, Randomness(2)).plain(images), features.plain(images))


def test_views_are_averaged_and_are_not_the_copies_that_were_trained_on(features, images):
    plain, copies = features.plain(images), features.copies(images)
    assert torch.equal(features.viewed(images), plain), "one view is the image"
    two = ScatteringFeatures(SETTINGS.model_copy(update={"views": 2}), Randomness(1)).viewed(images)
    view = 2 * two - plain
    torch.testing.assert_close(view[:, :-1].norm(dim=1), torch.ones(30))
    assert ((view - copies[:, 1]).norm(dim=1) > 0.01).all()
    assert (view[:, :-1] @ plain[:, :-1].T).argmax(dim=1).eq(torch.arange(30)).float().mean() > 0.8


def check_others_do_not_matter(make, images):
    """Replace all records but five: the features of those five must not change."""
    replaced = torch.cat([images[:5], 1 - images[5:]])
    for kind in ("plain", "copies", "viewed"):
        before, after = (getattr(make(these), kind)(these)[:5] for these in (images, replaced))
        torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_no_other_record_enters_the_features_of_one(images):
    check_others_do_not_matter(lambda records: ScatteringFeatures(SETTINGS, Randomness(1)), images)


@pytest.mark.parametrize("place", ["strokes", "whitening"])
def test_records_among_the_strokes_or_in_the_whitening_are_noticed(images, monkeypatch, place):
    def leaky(records):
        if place == "strokes":

            def drawn(count, generator):
                return torch.cat([draw_strokes(count - 20, generator), records[-20:, 0]])

            monkeypatch.setattr(extractor, "draw_strokes", drawn)
            return ScatteringFeatures(SETTINGS, Randomness(1))
        made = ScatteringFeatures(SETTINGS, Randomness(1))
        made._whitening = Whitening.fit(made._coefficients(records[:, 0]), 50, 1e-3)
        return made

    with pytest.raises(AssertionError):
        check_others_do_not_matter(leaky, images)


def released(records, *, copies_as_records=False):
    """Return the sum of clipped gradients, without noise, of one full-batch step from trained-looking weights."""
    if copies_as_records:
        copies = records.images.shape[1]
        records = Examples(records.images.flatten(0, 1), records.labels.repeat_interleave(copies))
    model = build_model("linear", 10, torch.Generator(), records.images.shape[-1])
    torch.nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(5))
    sums = []
    learner = DpSgdLearner(
        Settings(epochs=1, batch_size="all", learning_rate=1.0),
        noise_multiplier=0.0,
        max_grad_norm=0.5,
        on_release=lambda gradients: sums.append(gradients[0].clone() * len(records)),
    )
    events = learner.fit(model, records, span=Span(), rng=Randomness(1))
    assert [(event.sample_rate, event.steps) for event in events] == [(1.0, 1)]
    return sums[0]


def check_one_record_moves_the_sum_by_at_most_the_clipping_norm(records, **how):
    whole = released(records, **how)
    for left_out in (0, 7):
        others = torch.tensor([place for place in range(len(records)) if place != left_out])
        assert (whole - released(records.select(others), **how)).norm() <= 0.5 * (1 + 1e-5)


def test_copies_change_no_sensitivity(features, images):
    records = Examples(features.copies(images), torch.arange(30) % 10)
    # All of them are clipped here, so that the bound is reached.
    check_one_record_moves_the_sum_by_at_most_the_clipping_norm(records)


def test_copies_that_are_clipped_one_by_one_are_noticed(features, images):
    records = Examples(features.copies(images), torch.arange(30) % 10)
    with pytest.raises(AssertionError):
        check_one_record_moves_the_sum_by_at_most_the_clipping_norm(records, copies_as_records=True)
