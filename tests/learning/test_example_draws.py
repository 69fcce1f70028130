"""The draws of an example, and its effect on the clipped sum, are independent of other examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from ppml.accounting.schedule import poisson_schedule
from ppml.data.examples import Examples
from ppml.data.transforms.deformation import DRAWS, NO_DEFORMATION, Deformation
from ppml.example_draws import MAX_DRAWS, draws_per_example, draws_per_step, example_digests
from ppml.federation.algorithms import ClientData, FedAvg
from ppml.federation.server_optimizer import FedAvgM
from ppml.learning import dpsgd, loop
from ppml.learning.augmentation import Augmentation, deform_each, shift_batch
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from ..federation.parties import PARAMETERS
from ..federation.sum_noise import by_example, distributed_gaussian, round_context
from .digits import CONTRACT, FAR, some, with_duplicates

NORM = 0.1
COUNTS = [1, 2, 37, 1000]

# Draws.


def test_draws_are_uniform_and_independent():
    examples = [place.to_bytes(32, "little") for place in range(20_000)]
    drawn = draws_per_example(Randomness(1).child("a"), 7, examples, MAX_DRAWS)
    assert drawn.shape == (20_000, MAX_DRAWS) and drawn.min() >= 0 and drawn.max() < 1
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-6
    others = [
        draws_per_example(Randomness(1).child("a"), 8, examples, MAX_DRAWS),
        draws_per_example(Randomness(1).child("b"), 7, examples, MAX_DRAWS),
        draws_per_example(Randomness(2).child("a"), 7, examples, MAX_DRAWS),
        np.roll(drawn, 1, axis=0),
        np.roll(drawn, 1, axis=1),
    ]
    for other in others:
        assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 6 / drawn.size**0.5


def test_equal_examples_have_equal_draws():
    rng = Randomness(1)
    first, second, third = draws_per_example(rng, 0, [b"one", b"other", b"one"], 3)
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    assert not np.array_equal(draws_per_step(rng, 0, 2), draws_per_step(rng, 1, 2))


def test_digest_covers_values_and_label_in_any_memory_order():
    examples = some(40)
    assert len(set(examples.digests)) == 40 and {len(digest) for digest in examples.digests} == {32}
    there = examples.inputs.expand(-1, 3, -1, -1)
    in_memory = there.to(memory_format=torch.channels_last)
    assert example_digests(there) == example_digests(in_memory.contiguous()) == example_digests(in_memory)
    relabelled = Examples(examples.inputs, (examples.labels + 1) % 10)
    assert not set(relabelled.digests) & set(examples.digests)
    assert example_digests(examples.inputs) == example_digests(relabelled.inputs)
    changed = examples.inputs.clone()
    changed[3, 0, 27, 27] += 1e-6
    differ = [
        one != other for one, other in zip(example_digests(changed), example_digests(examples.inputs), strict=True)
    ]
    assert differ == [place == 3 for place in range(40)]
    assert example_digests(examples.inputs[:0]) == ()


# Inputs of the model in a training.


def logistic() -> nn.Module:
    model = build_model("logistic", CONTRACT, torch.Generator())
    nn.init.normal_(model[-1].weight, generator=torch.Generator().manual_seed(5))
    return model


@dataclass(frozen=True)
class Training:
    """A private training with constant weights, so that every step starts from the same weights."""

    federated: bool = False
    source: str = "seeded"
    shift: int = 2
    deformation: Deformation = FAR

    def __str__(self) -> str:
        return f"{'federated' if self.federated else 'centralized'}-{self.source}"

    def __call__(self, examples: Examples, batch_size: int | str = "all", epochs: int = 3) -> list[torch.Tensor]:
        """Return the release of each step times the number of examples, shape ``(parameters,)``."""
        released: list[torch.Tensor] = []
        learner = DpSgdLearner(
            Settings(epochs, batch_size, 0.0, shift=self.shift, deformation=self.deformation),  # type: ignore[arg-type]
            noise_multiplier=0.0,
            max_grad_norm=NORM,
            noise_source=self.source,
            on_release=lambda gradients: released.append(
                torch.cat([gradient.flatten().double() for gradient in gradients]) * len(examples)
            ),
        )
        if self.federated:
            start = np.concatenate([parameter.detach().numpy().ravel() for parameter in logistic().parameters()])
            algorithm = FedAvg(FedAvgM(), 1.0)
            algorithm.compute_update(logistic(), ClientData(learner, examples), round_context(parameters=start))
        else:
            learner.fit(logistic(), examples, window=TrainingWindow(), rng=Randomness(1))
        return released


def step_images(train: Callable[..., object], examples: Examples, *how: object) -> list[np.ndarray]:
    """Return the images of each step."""
    steps: list[np.ndarray] = []

    def look(model: nn.Module, keeping: object, optimizer: object, images: torch.Tensor, labels: torch.Tensor) -> None:
        steps.append(images.numpy().copy())

    with mock.patch.object(dpsgd, "_private_step", look):
        train(examples, *how)
    return steps


def places(count: int, left_out: str) -> tuple[int, list[int]]:
    place = {"first": 0, "middle": count // 2, "last": count - 1}[left_out]
    return place, [other for other in range(count) if other != place]


def check_images_are_independent_of_other_examples(train: Training, examples: Examples, left_out: str) -> None:
    """Remove an example and change the order: every other example must keep its images."""
    whole, (_, others) = step_images(train, examples), places(len(examples), left_out)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(1)).tolist()
    for chosen in (others, order):
        if chosen:
            steps = step_images(train, examples.select(torch.tensor(chosen)))
            assert len(steps) == len(whole) == 3
            assert all(np.array_equal(step, before[chosen]) for step, before in zip(steps, whole, strict=True))


TRAININGS = [Training(federated, source) for federated in (False, True) for source in ("seeded", "secure")]


@pytest.mark.parametrize("train", TRAININGS, ids=str)
@pytest.mark.parametrize("count", COUNTS)
def test_example_keeps_its_images_if_another_is_removed(train, count):
    for left_out in ("first", "middle", "last"):
        check_images_are_independent_of_other_examples(train, with_duplicates(count), left_out)


def check_images_are_independent_of_sample(train: Training, count: int) -> None:
    """Compare small samples, some of them empty, with steps on all examples."""
    examples = some(count)
    everything = step_images(train, examples, "all", 24)
    sampled = step_images(train, examples, 1, max(1, 24 // poisson_schedule(count, 1)[1]))
    sizes = {len(step) for step in sampled}
    assert len(sampled) == 24 and 0 in sizes and len(sizes) > 1
    for sample, step in zip(sampled, everything, strict=True):
        assert {image.tobytes() for image in sample} <= {image.tobytes() for image in step}


@pytest.mark.parametrize("train", TRAININGS, ids=str)
@pytest.mark.parametrize("count", [2, 12])
def test_images_are_independent_of_sample(train, count):
    check_images_are_independent_of_sample(train, count)


def test_images_differ_between_steps_and_examples():
    seen = [image.tobytes() for step in step_images(Training(shift=0), some(37)) for image in step]
    assert len(set(seen)) == 3 * 37
    shifts = {step.tobytes() for step in step_images(Training(deformation=NO_DEFORMATION), some(1), "all", 20)}
    assert len(shifts) > 10


# Effect of an example on the clipped sum.


def check_example_changes_sum_within_norm(
    total: Callable[[Examples], list[torch.Tensor]], examples: Examples, left_out: str
) -> None:
    _, others = places(len(examples), left_out)
    whole = total(examples)
    without = total(examples.select(torch.tensor(others, dtype=torch.int64))) if others else [torch.zeros(())] * 3
    moved = [float((one - other).norm()) for one, other in zip(whole, without, strict=True)]
    # Every gradient is longer than the norm; a step without the example does not change.
    assert len(moved) >= 3 and all(one <= NORM * (1 + 2e-3) for one in moved)
    assert max(moved) == pytest.approx(NORM, rel=2e-2)


@pytest.mark.parametrize("train", TRAININGS, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("left_out", ["first", "middle", "last"])
def test_example_changes_clipped_sum_within_norm(train, count, left_out):
    check_example_changes_sum_within_norm(train, with_duplicates(count), left_out)


def at_a_fixed_rate(examples: Examples) -> list[torch.Tensor]:
    """Return the sums of 12 steps at rate 1/2 for any number of examples."""
    with mock.patch.object(dpsgd, "poisson_schedule", lambda count, batch_size: (0.5, 4)):
        return [total * 0.5 for total in Training()(examples)]


def by_shares(examples: Examples) -> list[torch.Tensor]:
    """Return a client's contributions to the sums of 12 rounds at rate 1/2."""
    algorithm = by_example(distributed_gaussian(1.0, 3, size=PARAMETERS, max_norm=NORM), rate=0.5)
    start = np.concatenate([parameter.detach().numpy().ravel() for parameter in logistic().parameters()])
    member = ClientData(None, examples)  # type: ignore[arg-type]
    return [
        torch.from_numpy(
            algorithm.compute_update(logistic(), member, round_context(number=number, parameters=start)).values
        )
        for number in range(1, 13)
    ]


@pytest.mark.parametrize("total", [at_a_fixed_rate, by_shares])
@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("left_out", ["first", "middle", "last"])
def test_example_changes_sampled_sum_within_norm(total, count, left_out):
    check_example_changes_sum_within_norm(total, with_duplicates(count), left_out)


# Planted faults.


class ByPosition(Augmentation):
    """Draws in batch order from one generator."""

    def __init__(self, *how):
        super().__init__(*how)
        self._generator = np.random.default_rng(1)

    def __call__(self, images, index):
        deformed = deform_each(images, self._deformation, self._generator.random((len(images), DRAWS)))
        return shift_batch(deformed, self._pixels, self._generator.random(2))


class SkipsEmpty(Augmentation):
    """Draws no shift for empty steps."""

    def __call__(self, images, index):
        return super().__call__(images, index) if len(images) else images


class ByPositionInDataSet(Augmentation):
    """Hashes the position instead of the example."""

    def __init__(self, examples, *how):
        super().__init__(examples, *how)
        numbers = torch.arange(len(examples), dtype=torch.float32)[:, None]
        self._examples = Examples(numbers, torch.zeros_like(examples.labels))


@pytest.mark.parametrize("fault", [ByPosition, ByPositionInDataSet])
@pytest.mark.parametrize("left_out", ["first", "middle"])
def test_image_check_detects_draws_by_position(fault, left_out, monkeypatch):
    monkeypatch.setattr(loop, "Augmentation", fault)
    with pytest.raises(AssertionError):
        check_images_are_independent_of_other_examples(Training(), some(37), left_out)
    with pytest.raises(AssertionError):
        check_example_changes_sum_within_norm(Training(), some(37), left_out)
    whole, (_, others) = Training()(some(300))[0], places(300, left_out)
    moved = float((whole - Training()(some(300).select(torch.tensor(others)))[0]).norm())
    assert moved > 2 * NORM, "far above the sensitivity of the noise"


@pytest.mark.parametrize("fault", [ByPosition, SkipsEmpty])
def test_image_check_detects_effect_of_empty_sample(fault, monkeypatch):
    monkeypatch.setattr(loop, "Augmentation", fault)
    with pytest.raises(AssertionError):
        check_images_are_independent_of_sample(Training(deformation=NO_DEFORMATION), 2)


def test_sum_check_detects_samples_by_position(monkeypatch):
    def by_position(examples, rate, steps, source, rng):
        generator = rng.torch()
        return [torch.nonzero(torch.rand(len(examples), generator=generator) < rate)[:, 0] for _ in range(12)]

    monkeypatch.setattr(dpsgd, "build_sampler", by_position)
    with pytest.raises(AssertionError):
        check_example_changes_sum_within_norm(at_a_fixed_rate, some(37), "first")
