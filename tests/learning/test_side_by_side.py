"""Dense models that are trained at once: what each learns alone, and its bits whoever else trains."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.schedule import Span
from ppml.learning.sgd import SgdLearner
from ppml.learning.side_by_side import Pupil, train_side_by_side, trains_side_by_side
from ppml.learning.vectors import flat_parameters
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from .digits import some

SPAN = Span(0.25, 0.5)
SIZES = (60, 35, 7)


def model_of(name: str, features: int = 0) -> nn.Module:
    return build_model(name, 10, torch.Generator().manual_seed(0), features)


def pupils() -> list[Pupil]:
    owned = [some(size, start=100 * place) for place, size in enumerate(SIZES)]
    return [Pupil(records, Randomness(1, ("client", place))) for place, records in enumerate(owned)]


def settings(**changes: object) -> Settings:
    return Settings(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.05, **changes})  # type: ignore[arg-type]


def by_itself(model: nn.Module, pupil: Pupil, how: Settings) -> np.ndarray:
    mine = copy.deepcopy(model)
    SgdLearner(how).fit(mine, pupil.records, span=SPAN, rng=pupil.rng)
    return flat_parameters(mine)


@pytest.mark.parametrize("name", ["mlp", "logistic"])
@pytest.mark.parametrize(
    "changes", [{}, {"shift": 1}, {"batch_size": "all"}, {"momentum": 0.0}, {"decay": "constant"}], ids=str
)
def test_each_comes_to_what_it_learns_alone(name, changes):
    model, how = model_of(name), settings(**changes)
    for pupil, found in zip(pupils(), train_side_by_side(model, pupils(), how, SPAN), strict=True):
        alone = by_itself(model, pupil, how)
        assert np.abs(alone - flat_parameters(model)).max() > 1e-3
        assert np.allclose(found, alone, rtol=0, atol=1e-6)


def test_the_copies_of_a_record_are_rows_of_their_own():
    images = torch.randn(20, 3, 12, generator=torch.Generator().manual_seed(1))
    pupil = Pupil(Examples(images, torch.arange(20) % 10), Randomness(1, ("client", 0)))
    model = model_of("linear", features=12)
    (found,) = train_side_by_side(model, [pupil], settings(), SPAN)
    assert np.allclose(found, by_itself(model, pupil, settings()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cache", [1, 2**30], ids=["one at once", "all at once"])
def test_each_gets_the_same_bits_whoever_else_trains(cache, monkeypatch):
    model = model_of("mlp")
    alone = [train_side_by_side(model, [pupil], settings(), SPAN)[0] for pupil in pupils()]
    monkeypatch.setattr("ppml.learning.side_by_side.CACHE", cache)
    together = train_side_by_side(model, pupils(), settings(), SPAN)
    assert [one.tobytes() for one in together] == [one.tobytes() for one in alone]


def test_one_who_diverges_is_told_and_the_others_are_not_touched():
    spoiled = pupils()
    spoiled[1].records.images.fill_(float("nan"))
    found = train_side_by_side(model_of("mlp"), spoiled, settings(), SPAN)
    assert isinstance(found[1], TrainingDiverged) and found[1].step == 1
    kept = train_side_by_side(model_of("mlp"), [spoiled[0], spoiled[2]], settings(), SPAN)
    assert [one.tobytes() for one in (found[0], found[2])] == [one.tobytes() for one in kept]


def test_the_model_itself_is_not_changed():
    model = model_of("mlp")
    before = flat_parameters(model).copy()
    train_side_by_side(model, pupils(), settings(), SPAN)
    assert np.array_equal(flat_parameters(model), before)


@pytest.mark.parametrize(
    ("model", "dense"),
    [
        (model_of("mlp"), True),
        (model_of("logistic"), True),
        (model_of("tanh_cnn"), False),
        (nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(4, 2)), False),
        (nn.Sequential(nn.Flatten()), False),
        (nn.Linear(4, 2), False),
    ],
    ids=["mlp", "logistic", "cnn", "squashed inputs", "no layer", "no sequence"],
)
def test_what_is_trained_side_by_side(model, dense):
    assert trains_side_by_side(model) is dense
