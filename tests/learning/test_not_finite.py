"""Private examples with values that are not finite contribute 0, without a message."""

from __future__ import annotations

import logging
import math
import warnings
from unittest import mock

import pytest
import torch
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.clipped_sum import clipped_sum
from ppml.learning.clipping import convolution as convolutions
from ppml.learning.clipping import gradient_factors as parts
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.clipping import linear as linears
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from .clipping.oracle import WRONG, null
from .digits import CONTRACT, cnn, some, vector

COUNT = 20


def spoilt(examples: Examples, value: float, position: int = WRONG) -> Examples:
    images = examples.inputs.clone()
    images[position].view(-1)[5] = value
    return Examples(images, examples.labels)


def with_copies() -> Examples:
    """Return features of examples with three copies each."""
    rows = some(COUNT).inputs.flatten(1)[:, ::4]
    return Examples(torch.stack([rows, rows.roll(1, 1), rows.roll(2, 1)], dim=1), some(COUNT).labels)


def linear() -> nn.Module:
    return build_model("linear", CONTRACT.features(196), Randomness(0).torch())


CASES = {"network": (cnn, lambda: some(COUNT)), "features with copies": (linear, with_copies)}


def trained(model: nn.Module, examples: Examples) -> tuple[torch.Tensor, tuple]:
    """Return the weights after two steps on all examples with seeded noise, and the events."""
    learner = DpSgdLearner(Settings(2, COUNT, 0.5), noise_multiplier=1.0, max_grad_norm=0.1)
    events = learner.fit(model, examples, window=TrainingWindow(), rng=Randomness(1))
    return vector(model), events


def check_example_contributes_0(model, examples: Examples, value: float) -> None:
    with mock.patch.object(bookkeeping, "clipping_factors", null):
        expected, stated = trained(model(), examples)
    found, events = trained(model(), spoilt(examples, value))
    assert found.isfinite().all()
    assert torch.equal(found, expected)
    assert events == stated


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("case", CASES)
def test_non_finite_example_contributes_0_without_message(case, value, capsys, caplog):
    model, examples = CASES[case]
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        check_example_contributes_0(model, examples(), value)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("case", CASES)
def test_zero_factor_alone_is_detected(case, monkeypatch):
    for module in (parts, linears, convolutions):
        monkeypatch.setattr(module, "zero_rows_except", lambda kept, values: values)
    with pytest.raises((AssertionError, TrainingDiverged, RuntimeWarning)), warnings.catch_warnings():
        warnings.simplefilter("error")
        check_example_contributes_0(CASES[case][0], CASES[case][1](), math.nan)


def test_step_without_finite_example_is_noise():
    examples = Examples(torch.full_like(some(COUNT).inputs, math.nan), some(COUNT).labels)
    model = cnn()
    before = vector(model)
    learner = DpSgdLearner(Settings(1, COUNT, 1.0, momentum=0.0), noise_multiplier=2.0, max_grad_norm=0.5)
    (event,) = learner.fit(model, examples, window=TrainingWindow(), rng=Randomness(1))
    assert event.steps == 1
    assert ((vector(model) - before).std() * COUNT).item() == pytest.approx(2.0 * 0.5, rel=0.03)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("case", CASES)
def test_client_sum_excludes_non_finite_example(case, value):
    model, examples = CASES[case][0](), CASES[case][1]()
    with mock.patch.object(bookkeeping, "clipping_factors", null):
        expected = clipped_sum(model, examples, torch.arange(COUNT), 0.1)
    found = clipped_sum(model, spoilt(examples, value), torch.arange(COUNT), 0.1)
    assert (found == expected).all() and found.any()


def test_divergence_without_privacy_names_step():
    learner = SgdLearner(Settings(1, COUNT, 0.1))
    with pytest.raises(TrainingDiverged, match=r"^the loss is not finite in step 1 of 1, epoch 1 of 1; "):
        learner.fit(cnn(), spoilt(some(COUNT), math.nan), window=TrainingWindow(), rng=Randomness(1))
