"""One example moves a float32 sum of clipped gradients by less than the clipping norm with its margin."""

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

from .digits import cnn, digits

NORM = 0.1


def aligned(count: int, *shape: int) -> Examples:
    """Return examples whose gradients point the same way, so that their sum, and its rounding, is as large as may be."""
    generator = Randomness(1).torch()
    images = torch.randn(1, *shape, generator=generator) * (
        0.5 + torch.rand(count, *[1] * len(shape), generator=generator)
    )
    return Examples(images, torch.zeros(count, dtype=torch.int64))


def real(count: int) -> Examples:
    """Return digits, each several times with other pixels."""
    train, times = digits()[0], -(-count // len(digits()[0]))
    images = train.inputs.repeat(times, 1, 1, 1)[:count]
    return Examples(
        images + 0.1 * torch.randn(images.shape, generator=Randomness(2).torch()), train.labels.repeat(times)[:count]
    )


def linear(features: int) -> nn.Module:
    return build_model("linear", 10, Randomness(0).torch(), features)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Examples], tuple[int, ...]]] = {
    "network, digits": (cnn, real, (1, 37, 1000)),
    "features": (lambda: linear(10), lambda count: aligned(count, 10), (1, 37, 1000, 10_000)),
    "features with copies": (lambda: linear(50), lambda count: aligned(count, 4, 50), (1, 37, 1000, 10_000)),
}


def check_no_example_moves_the_sum_further(case: str) -> None:
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
def test_no_example_moves_the_sum_further_than_the_norm_with_its_margin(case):
    check_no_example_moves_the_sum_further(case)


@pytest.mark.parametrize("case", CASES)
def test_gradients_that_are_clipped_to_a_little_more_are_caught(case, monkeypatch):
    true = bookkeeping.clipping_factors
    monkeypatch.setattr(bookkeeping, "clipping_factors", lambda *given: true(*given) * (1 + CLIPPING_MARGIN))
    with pytest.raises(AssertionError):
        check_no_example_moves_the_sum_further(case)


def largest_piece() -> int:
    """Return how many examples of one feature a pass has once it knows their size."""
    examples, model = aligned(300, 1), linear(1)
    with BookKeeping(model) as keeping:
        keeping.clipped_gradient_sum(partial(per_example_losses, model, examples.inputs, examples.labels), 300, NORM)
        return keeping.examples_per_pass


def check_a_float32_sum_of_the_largest_piece_is_within_the_margin() -> None:
    count = min(200_000, largest_piece())
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


def test_a_float32_sum_of_the_largest_piece_is_within_the_margin():
    check_a_float32_sum_of_the_largest_piece_is_within_the_margin()


def test_pieces_without_a_bound_are_caught(monkeypatch):
    monkeypatch.setattr(bookkeeping, "MAX_EXAMPLES_PER_PASS", 1 << 30)
    with pytest.raises(AssertionError):
        check_a_float32_sum_of_the_largest_piece_is_within_the_margin()
