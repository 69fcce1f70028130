"""One example changes a float32 sum of clipped gradients by less than the clipping norm with its margin."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.clipped_sum import clipped_sum
from ppml.learning.clipping import CLIPPING_MARGIN, BookKeeping
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.loss import per_example_losses
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from .digits import CONTRACT, cnn, digits

NORM = 0.1


def aligned(count: int, *shape: int) -> Examples:
    """Return examples with parallel gradients, which maximise the sum and its rounding error."""
    generator = Randomness(1).torch()
    images = torch.randn(1, *shape, generator=generator) * (
        0.5 + torch.rand(count, *[1] * len(shape), generator=generator)
    )
    return Examples(images, torch.zeros(count, dtype=torch.int64))


def real(count: int) -> Examples:
    """Return digits, each several times with small changes."""
    train, times = digits()[0], -(-count // len(digits()[0]))
    images = train.inputs.repeat(times, 1, 1, 1)[:count]
    return Examples(
        images + 0.1 * torch.randn(images.shape, generator=Randomness(2).torch()), train.labels.repeat(times)[:count]
    )


def linear(features: int) -> nn.Module:
    return build_model("linear", CONTRACT.features(features), Randomness(0).torch())


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Examples], tuple[int, ...]]] = {
    "network, digits": (cnn, real, (1, 37, 1000)),
    "features": (lambda: linear(10), lambda count: aligned(count, 10), (1, 37, 1000, 10_000)),
    "features with copies": (lambda: linear(50), lambda count: aligned(count, 4, 50), (1, 37, 1000, 10_000)),
}


def check_sum_change_is_within_margin(case: str) -> None:
    model, make, counts = CASES[case]
    for count in counts:
        examples, network = make(count), model()
        full = torch.from_numpy(clipped_sum(network, examples, torch.arange(count), NORM))
        assert full.dtype == torch.float64
        for gone in {0, count // 2, count - 1}:
            others = torch.arange(count)[torch.arange(count) != gone]
            moved = (full - torch.from_numpy(clipped_sum(network, examples, others, NORM))).norm().item()
            # Measured: at most 1.00003 of the norm.
            assert 0.9 * NORM < moved <= NORM * (1 + CLIPPING_MARGIN / 10)


@pytest.mark.parametrize("case", CASES)
def test_example_changes_sum_within_margin(case):
    check_sum_change_is_within_margin(case)


@pytest.mark.parametrize("case", CASES)
def test_margin_check_detects_larger_clipping_norm(case, monkeypatch):
    true = bookkeeping.clipping_factors
    monkeypatch.setattr(bookkeeping, "clipping_factors", lambda *given: true(*given) * (1 + CLIPPING_MARGIN))
    with pytest.raises(AssertionError):
        check_sum_change_is_within_margin(case)


def largest_pass() -> int:
    """Return the number of examples per pass for one feature, after the first pass."""
    examples, model = aligned(300, 1), linear(1)
    with BookKeeping(model) as keeping:
        keeping.clipped_gradient_sum(partial(per_example_losses, model, examples.inputs, examples.labels), 300, NORM)
        return keeping.examples_per_pass


def check_largest_float32_sum_is_within_margin() -> None:
    count = min(200_000, largest_pass())
    for features in (1, 10):
        examples, model = aligned(count, features), linear(features)

        def summed(chosen: torch.Tensor, examples: Examples = examples, model: nn.Module = model) -> torch.Tensor:
            with BookKeeping(model) as keeping:
                images, labels = examples.inputs[chosen], examples.labels[chosen]
                keeping.clipped_gradient_sum(partial(per_example_losses, model, images, labels), len(chosen), NORM)
            return torch.cat([parameter.grad.double().flatten() for parameter in model.parameters()])

        full = summed(torch.arange(count))
        for gone in (0, count // 2, count - 1):
            others = summed(torch.arange(count)[torch.arange(count) != gone])
            # Measured at 1,024 examples: less than 1e-4 of the norm.
            assert (full - others - summed(torch.tensor([gone]))).norm().item() <= NORM * CLIPPING_MARGIN / 4


def test_largest_float32_sum_is_within_margin():
    check_largest_float32_sum_is_within_margin()


def test_margin_check_detects_unbounded_passes(monkeypatch):
    monkeypatch.setattr(bookkeeping, "MAX_EXAMPLES_PER_PASS", 1 << 30)
    with pytest.raises(AssertionError):
        check_largest_float32_sum_is_within_margin()
