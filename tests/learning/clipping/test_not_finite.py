"""An example whose loss or gradient is not finite contributes exactly 0 in every layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import nn

from ppml.learning.clipping import BookKeeping
from ppml.learning.clipping import convolution as convolutions
from ppml.learning.clipping import gradient_factors as parts
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.clipping import linear as linears
from ppml.learning.loss import cross_entropies

from .oracle import FORMS, WRONG, null, seeded, squares


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.GroupNorm(3, 6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 2, stride=2, groups=2, bias=False),
        nn.Flatten(),
        nn.LayerNorm(4),
        nn.Linear(4, 5),
    )


CASES: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "network": lambda: (network(), seeded(7, 2, 6, 6)),
    "convolution": lambda: (nn.Conv2d(3, 8, 3, padding=1), seeded(7, 3, 5, 5)),
    "convolution with groups": lambda: (nn.Conv2d(4, 8, 3, groups=2), seeded(7, 4, 5, 5)),
    "linear": lambda: (nn.Linear(6, 4), seeded(7, 6)),
    "linear, few positions": lambda: (nn.Linear(30, 20), seeded(7, 3, 30)),
    "linear, many positions": lambda: (nn.Linear(6, 4), seeded(7, 40, 6)),
    "group normalisation": lambda: (nn.GroupNorm(2, 6), seeded(7, 6, 4)),
    "layer normalisation": lambda: (nn.LayerNorm(6), seeded(7, 3, 6)),
    "embedding": lambda: (nn.Embedding(9, 4), torch.arange(7 * 5).view(7, 5) % 9),
}
LOSSES = {
    "loss is nan": lambda losses: losses * torch.where(torch.arange(len(losses)) == WRONG, math.nan, 1.0),
    "gradient is infinite": lambda losses: losses * torch.where(torch.arange(len(losses)) == WRONG, math.inf, 1.0),
    "loss is infinite, its gradient is not": lambda losses: (
        losses + torch.where(torch.arange(len(losses)) == WRONG, math.inf, 0.0)
    ),
}


def summed(model: nn.Module, inputs: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    with BookKeeping(model) as keeping:
        keeping.clipped_gradient_sum(lambda: spoil(squares(model, inputs)), len(inputs), 1.0)
    return [parameter.grad for parameter in model.parameters()]


def unspoilt(losses: torch.Tensor) -> torch.Tensor:
    return losses


def check_other_examples_are_unchanged(
    model: nn.Module, inputs: torch.Tensor, spoil: Callable[[torch.Tensor], torch.Tensor] = unspoilt, value: float = 0.0
) -> None:
    with mock.patch.object(bookkeeping, "clipping_factors", null):
        expected = summed(model, inputs, unspoilt)
    assert any(one.any() for one in expected)
    if value:
        inputs = inputs.clone()
        inputs[WRONG, ..., 0] = value
    found = summed(model, inputs, spoil)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("case", [name for name in CASES if name != "embedding"])
def test_non_finite_value_contributes_0(case, value):
    check_other_examples_are_unchanged(*CASES[case](), value=value)


@pytest.mark.parametrize("case", ["convolution", "linear", "linear, many positions"])
def test_norm_beyond_float32_contributes_0(case):
    check_other_examples_are_unchanged(*CASES[case](), value=1e38)


@pytest.mark.parametrize("spoil", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_non_finite_loss_or_gradient_contributes_0(case, spoil):
    check_other_examples_are_unchanged(*CASES[case](), spoil)


@pytest.mark.parametrize("sparse", [0.0, 2.0])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_every_convolution_form_excludes_non_finite_example(form, sparse, order, monkeypatch):
    monkeypatch.setattr(convolutions, "cheapest", form)
    monkeypatch.setattr(convolutions, "SPARSE_FRACTION", sparse)
    model, inputs = CASES["convolution"]()
    for value in (math.nan, math.inf):
        check_other_examples_are_unchanged(model.to(memory_format=order), inputs.to(memory_format=order), value=value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_copy_excludes_its_example(value):
    model, inputs, labels = nn.Linear(6, 4, bias=False), seeded(7, 3, 6), torch.arange(7) % 4
    with BookKeeping(model) as keeping:
        with mock.patch.object(bookkeeping, "clipping_factors", null):
            keeping.clipped_gradient_sum(lambda: cross_entropies(model(inputs), labels), 7, 0.1)
        expected = model.weight.grad
        inputs[WRONG, 1, 4] = value
        keeping.clipped_gradient_sum(lambda: cross_entropies(model(inputs), labels), 7, 0.1)
    assert torch.equal(model.weight.grad, expected)


@pytest.mark.parametrize("case", [name for name in CASES if name != "embedding"])
def test_sum_without_finite_example_is_0(case):
    model, inputs = CASES[case]()
    assert not any(one.any() for one in summed(model, torch.full_like(inputs, math.nan), unspoilt))


# Planted faults.


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_check_detects_zero_factor_alone(value, monkeypatch):
    for module in (parts, linears, convolutions):
        monkeypatch.setattr(module, "zero_rows_except", lambda kept, values: values)
    for case in ("convolution", "linear", "layer normalisation"):
        with pytest.raises(AssertionError):
            check_other_examples_are_unchanged(*CASES[case](), value=value)
