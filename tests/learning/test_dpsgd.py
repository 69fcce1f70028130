"""What DP-SGD claims. Every claim is a function that the real learner passes and a planted fault does not."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import nn
from torch.nn import functional

from ppml.accounting.epsilon import epsilon
from ppml.accounting.schedule import poisson_schedule
from ppml.data.examples import Examples
from ppml.example_draws import draws_per_step
from ppml.learning import dpsgd, private_optimizer
from ppml.learning import noise as noise_sources
from ppml.learning.augmentation import shift_batch
from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.noise import os_entropy_normal, os_entropy_uniform
from ppml.learning.poisson import SeededSampler
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness

from . import planted
from .digits import Silent, blank, cnn, digits, some, vector

Make = Callable[..., DpSgdLearner]


def plain(batch_size: int, *, epochs: int = 1, learning_rate: float = 1.0, shift: int = 0) -> Settings:
    """Return settings under which a step moves the weights by its gradient."""
    return Settings(epochs, batch_size, learning_rate, momentum=0.0, decay="constant", shift=shift)


def moved(learner: DpSgdLearner, model: nn.Module, examples: Examples, rng: Randomness | None = None) -> torch.Tensor:
    """Return by how much ``learner`` lowers the weights."""
    before = vector(model)
    learner.fit(model, examples, window=TrainingWindow(), rng=rng or Randomness(1))
    return before - vector(model)


def clipped_sum(model: nn.Module, examples: Examples, norm: float) -> torch.Tensor:
    """Return the sum of clipped gradients, one example after the other: the oracle."""
    total = torch.zeros_like(vector(model))
    for image, label in zip(examples.inputs, examples.labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        gradient = torch.cat([one.reshape(-1) for one in torch.autograd.grad(loss, list(model.parameters()))])
        total += gradient * min(1.0, norm / gradient.norm().item())
    return total


# The gradient.


def check_one_step_is_the_clipped_sum_over_the_expected_batch(
    make: Make, *, weights: torch.memory_format, images: torch.memory_format, shift: int = 0
) -> None:
    # Rate 0.7 gives one step, whose sample is drawn here once more.
    rng = Randomness(5)
    # In float64, since max pooling takes either of two values that are closer than float32's error.
    examples = Examples(some(40).inputs.double(), some(40).labels)
    (sample,) = SeededSampler(examples, 0.7, 1, rng.child("sampling"))
    assert len(sample) != 28, "a sample of the expected size would hide a division by the actual one"
    pixels = examples.inputs[sample]
    if shift:
        pixels = shift_batch(pixels, shift, draws_per_step(rng.child("shift"), 0, 2))
    expected = clipped_sum(cnn().double(), Examples(pixels, examples.labels[sample]), norm=0.5) / 28
    learner = make(plain(28, shift=shift), noise_multiplier=0.0, max_grad_norm=0.5)
    arriving = Examples(examples.inputs.to(memory_format=images), examples.labels)
    step = moved(learner, cnn().double().to(memory_format=weights), arriving, rng)
    assert (step - expected).norm() / expected.norm() < 1e-4


FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@pytest.mark.parametrize("weights", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("images", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("shift", [0, 2])
def test_a_noiseless_step_is_the_sum_of_clipped_gradients_over_the_expected_batch(weights, images, shift):
    check_one_step_is_the_clipped_sum_over_the_expected_batch(DpSgdLearner, weights=weights, images=images, shift=shift)


@pytest.mark.parametrize("fault", [planted.ActualBatchSize, planted.NoClipping, planted.ShuffledBatches])
def test_a_wrong_denominator_clipping_or_sample_is_caught(fault):
    with pytest.raises(AssertionError):
        check_one_step_is_the_clipped_sum_over_the_expected_batch(
            fault, weights=torch.contiguous_format, images=torch.contiguous_format
        )


def in_order():
    """Return what adds noise from a generator in the order of the parameter's dimensions, as Opacus draws it."""
    generator = torch.Generator().manual_seed(9)

    def add(total, source, grid, divisor, dtype):
        deviation = grid.deviation * grid.step
        return (total + torch.normal(0.0, deviation, total.shape, generator=generator, dtype=total.dtype)) / divisor

    return add


def check_steps_are_those_of_opacus(learner: type[DpSgdLearner]) -> None:
    walk, privacy = Settings(2, 20, 0.2), {"noise_multiplier": 0.3, "max_grad_norm": 0.5}
    examples = Examples(some(60).inputs.double(), some(60).labels)
    released: list[torch.Tensor] = []

    def keep(gradients):
        released.append(torch.cat([one.flatten() for one in gradients]))

    here, there = cnn().double(), cnn().double()
    with mock.patch.object(private_optimizer, "add_grid_noise", in_order()):
        learner(walk, **privacy, on_release=keep).fit(here, examples, window=TrainingWindow(), rng=Randomness(5))
    wrapped, rng = GradSampleModule(there), Randomness(5)
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=0.2, momentum=0.9),
        expected_batch_size=20,
        generator=torch.Generator().manual_seed(9),
        noise_multiplier=0.3 * (1 + CLIPPING_MARGIN),
        max_grad_norm=0.5,
    )
    for step, sample in enumerate(SeededSampler(examples, 1 / 3, 6, rng.child("sampling"))):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 6)
        optimizer.zero_grad()
        functional.cross_entropy(wrapped(examples.inputs[sample]), examples.labels[sample]).backward()
        optimizer.step()
        expected = torch.cat([parameter.grad.flatten() for parameter in wrapped.parameters()])
        assert (released[step] - expected).norm() / expected.norm() < 1e-4
    assert len(released) == 6
    assert torch.allclose(vector(here), vector(there), atol=1e-5)


def test_every_step_is_that_of_opacus_with_the_same_noise():
    check_steps_are_those_of_opacus(DpSgdLearner)


@pytest.mark.parametrize("fault", [planted.NoClipping, planted.HalfNoise, planted.ActualBatchSize])
def test_steps_other_than_those_of_opacus_are_caught(fault):
    with pytest.raises(AssertionError):
        check_steps_are_those_of_opacus(fault)


# The sensitivity.


def check_one_example_moves_a_step_by_at_most_the_norm(
    make: Make, model: Callable[[], nn.Module], scale: float
) -> None:
    ordinary, norm = some(20), 0.5
    outlier = Examples(ordinary.inputs[:1] * scale, (ordinary.labels[:1] + 1) % 10)
    joined = Examples(torch.cat([ordinary.inputs, outlier.inputs]), torch.cat([ordinary.labels, outlier.labels]))
    without, with_it = (
        # Every example is in the one sample; the sum is the step times the expected batch.
        moved(make(plain(len(examples)), noise_multiplier=0.0, max_grad_norm=norm), model(), examples) * len(examples)
        for examples in (ordinary, joined)
    )
    influence = (with_it - without).norm().item()
    assert 0.0 < influence <= norm * 1.001


def linear() -> nn.Module:
    """Return a model whose gradient grows with the image without bound."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("model", [cnn, linear], ids=["cnn", "linear"])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_one_example_moves_a_step_by_at_most_the_clipping_norm(model, scale):
    check_one_example_moves_a_step_by_at_most_the_norm(DpSgdLearner, model, scale)


@pytest.mark.parametrize("model", [cnn, linear], ids=["cnn", "linear"])
def test_missing_clipping_is_caught(model):
    with pytest.raises(AssertionError):
        check_one_example_moves_a_step_by_at_most_the_norm(planted.NoClipping, model, 1e3)


# The noise.


def check_noise_is_what_the_events_state(
    make: Make, *, noise_source: str = "seeded", batch_size: int = 10, device: str = "cpu"
) -> None:
    learner = make(
        plain(batch_size, epochs=2, learning_rate=0.5),
        noise_multiplier=1.5,
        max_grad_norm=0.2,
        noise_source=noise_source,
    )
    model, examples = Silent().to(device), blank(50).to(device)
    events = learner.fit(model, examples, window=TrainingWindow(), rng=Randomness(1))
    stated = math.sqrt(sum(event.steps * (event.noise_multiplier * event.max_grad_norm) ** 2 for event in events))
    noise = vector(model).cpu() * batch_size / 0.5 / stated
    # 78,400 values: their deviation is known to 0.25 %, their mean to 0.0036.
    assert noise.std().item() == pytest.approx(1.0, rel=0.02)
    assert abs(noise.mean().item()) < 0.025
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_the_noise_in_the_weights_is_that_of_the_stated_steps(noise_source):
    check_noise_is_what_the_events_state(DpSgdLearner, noise_source=noise_source)


def test_a_sampler_that_is_not_poisson_is_stated_as_what_it_is_and_gets_no_epsilon():
    given = {"noise_multiplier": 1.0, "max_grad_norm": 0.1}
    (event,) = planted.ShuffledBatches(plain(20), **given).fit(
        cnn(), some(60), window=TrainingWindow(), rng=Randomness(1)
    )
    assert (event.sampler, event.sample_rate) == ("list", 1.0)
    with pytest.raises(ValueError, match="claimed for sampler 'list'"):
        epsilon([event], 1e-5, "prv")
    (event,) = DpSgdLearner(plain(20), **given).fit(cnn(), some(60), window=TrainingWindow(), rng=Randomness(1))
    assert (event.sampler, event.sample_rate) == ("poisson", 1 / 3)


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_half_the_noise_is_caught(noise_source):
    with pytest.raises(AssertionError):
        check_noise_is_what_the_events_state(planted.HalfNoise, noise_source=noise_source)


def test_noise_that_repeats_in_every_step_is_caught():
    with pytest.raises(AssertionError):
        check_noise_is_what_the_events_state(planted.SameNoiseEachStep)


def test_a_step_that_is_not_stated_is_caught():
    with pytest.raises(AssertionError):
        check_noise_is_what_the_events_state(planted.StatesOneStepLess)


def check_noise_on_real_gradients(make: Make, noise_source: str = "seeded") -> None:
    # All examples are in the one sample, so that the difference of two runs is the noise alone.
    examples, noise_multiplier, norm = some(30), 0.8, 0.5
    silent, noisy = (
        moved(make(plain(30), noise_multiplier=noise, max_grad_norm=norm, noise_source=noise_source), cnn(), examples)
        for noise in (0.0, noise_multiplier)
    )
    noise = (noisy - silent) * 30 / (noise_multiplier * norm)
    # 26,106 values: their deviation is known to 0.44 %.
    assert noise.std().item() == pytest.approx(1.0, rel=0.03)
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_noise_on_a_real_gradient_has_the_stated_deviation(noise_source):
    check_noise_on_real_gradients(DpSgdLearner, noise_source)


def test_half_the_noise_on_a_real_gradient_is_caught():
    with pytest.raises(AssertionError):
        check_noise_on_real_gradients(planted.HalfNoise)


# The sampling.


def samples(make: Make, *, noise_source: str = "seeded", epochs: int = 400) -> np.ndarray:
    """Return which of 100 examples are in which step, shape ``(steps, 100)``, at rate 0.2."""
    numbered = Examples(torch.arange(100.0).reshape(100, 1, 1, 1), torch.zeros(100, dtype=torch.int64))
    rows = []

    def look(model, keeping, optimizer, images, labels):
        rows.append(np.bincount(images.reshape(-1).long().numpy(), minlength=100))

    learner = make(plain(20, epochs=epochs), noise_multiplier=1.0, max_grad_norm=1.0, noise_source=noise_source)
    with mock.patch.object(dpsgd, "_private_step", look):
        learner.fit(nn.Sequential(nn.Flatten(), nn.Linear(1, 1)), numbered, window=TrainingWindow(), rng=Randomness(2))
    return np.stack(rows)


def check_sampling_is_poisson(make: Make, noise_source: str = "seeded") -> None:
    drawn = samples(make, noise_source=noise_source)
    assert drawn.shape == (2000, 100)
    assert drawn.max() == 1, "without replacement within a step"
    sizes = drawn.sum(axis=1)
    # Binomial(100, 0.2): mean 20, variance 16; each is known to 1 % and 3 % from 2,000 steps.
    assert sizes.mean() == pytest.approx(20.0, rel=0.03)
    assert sizes.var() == pytest.approx(16.0, rel=0.18)
    assert drawn.mean(axis=0) == pytest.approx(np.full(100, 0.2), abs=0.06)
    # No example's presence tells of another's, nor of its own in the next step.
    correlation = np.corrcoef(drawn.T)[np.triu_indices(100, 1)]
    assert np.abs(correlation).max() < 0.15
    following = (drawn[1:] - 0.2) * (drawn[:-1] - 0.2)
    assert np.abs(following.mean(axis=0)).max() < 0.16 * 0.15


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_each_example_enters_each_step_independently(noise_source):
    check_sampling_is_poisson(DpSgdLearner, noise_source)


def test_shuffled_batches_of_fixed_size_are_caught():
    with pytest.raises(AssertionError):
        check_sampling_is_poisson(planted.ShuffledBatches)


# The number of steps.


def check_executed_is_planned(make: Make, count: int, batch_size: int, epochs: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    examples = Examples(torch.ones(count, 1, 2, 2), torch.zeros(count, dtype=torch.int64))
    with mock.patch.object(dpsgd, "_private_step", wraps=dpsgd._private_step) as step:
        learner = make(plain(batch_size, epochs=epochs, learning_rate=0.1), noise_multiplier=1.0, max_grad_norm=1.0)
        events = learner.fit(model, examples, window=TrainingWindow(), rng=Randomness(3))
    rate, planned = poisson_schedule(count, batch_size)
    assert planned == max(1, round(count / min(batch_size, count)))
    assert step.call_count == sum(event.steps for event in events) == planned * epochs
    assert {(event.sample_rate, event.sampler) for event in events} == {(rate, "poisson")}
    assert rate == pytest.approx(min(1.0, batch_size / count))


@pytest.mark.parametrize("batch_size", [1, 8, 13])
@pytest.mark.parametrize("examples", [93, 99, 105, 117, 123, 234])
def test_planned_drawn_and_stated_steps_are_the_same_at_the_sizes_that_lose_one(examples, batch_size):
    check_executed_is_planned(DpSgdLearner, examples, batch_size, 1)


@given(examples=st.integers(1, 150), batch_size=st.integers(1, 200), epochs=st.integers(1, 2))
@example(examples=1, batch_size=1, epochs=2)
@example(examples=3, batch_size=2, epochs=1)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_planned_drawn_and_stated_steps_are_the_same(examples, batch_size, epochs):
    check_executed_is_planned(DpSgdLearner, examples, batch_size, epochs)


@pytest.mark.parametrize(
    ("fault", "examples", "batch_size"),
    [(planted.InvertedRate, 93, 1), (planted.StatesOneStepLess, 20, 5), (planted.SkipsEmpty, 60, 1)],
)
def test_steps_that_are_lost_skipped_or_not_stated_are_caught(fault, examples, batch_size):
    with pytest.raises(AssertionError):
        check_executed_is_planned(fault, examples, batch_size, 1)


# Empty samples.


def with_an_empty_first_sample(examples: Examples, rate: float) -> Randomness:
    def empty(rng: Randomness) -> bool:
        (sample,) = SeededSampler(examples, rate, 1, rng.child("sampling"))
        return len(sample) == 0

    return next(rng for rng in map(Randomness, range(1000)) if empty(rng))


def check_an_empty_first_sample_adds_noise(make: Make) -> None:
    rng = with_an_empty_first_sample(some(4), 0.75)
    # Rate 0.75 gives one step: it is empty, and nothing but noise may move the weights.
    learner = make(plain(3), noise_multiplier=2.0, max_grad_norm=0.5)
    model = cnn()
    before = vector(model)
    events = learner.fit(model, some(4), window=TrainingWindow(), rng=rng)
    assert sum(event.steps for event in events) == 1
    assert ((vector(model) - before).std() * 3).item() == pytest.approx(2.0 * 0.5, rel=0.03)


def test_an_empty_first_sample_adds_noise_and_counts():
    check_an_empty_first_sample_adds_noise(DpSgdLearner)


def test_leaving_out_an_empty_sample_is_caught():
    with pytest.raises(AssertionError):
        check_an_empty_first_sample_adds_noise(planted.SkipsEmpty)


def test_one_example_alone_trains():
    events = DpSgdLearner(plain(1, epochs=3, learning_rate=0.1), noise_multiplier=1.0, max_grad_norm=0.1).fit(
        cnn(), some(1), window=TrainingWindow(), rng=Randomness(1)
    )
    assert [(event.sample_rate, event.steps) for event in events] == [(1.0, 3)]


# Repeating, and not repeating.


def private(noise_source: str = "seeded", *, seed: int = 1) -> torch.Tensor:
    learner = DpSgdLearner(
        Settings(2, 20, 0.1, shift=1), noise_multiplier=1.0, max_grad_norm=0.5, noise_source=noise_source
    )
    return moved(learner, cnn(), some(60), Randomness(seed))


def test_seeded_noise_repeats_bit_for_bit_whatever_the_global_seed():
    torch.manual_seed(1)
    first = private()
    torch.manual_seed(2)
    assert torch.equal(first, private())


def test_another_seed_gives_other_noise():
    assert not torch.equal(private(seed=1), private(seed=2))


def test_secure_noise_does_not_repeat():
    torch.manual_seed(1)
    first = private("secure")
    torch.manual_seed(1)
    assert not torch.equal(first, private("secure"))


def test_secure_samples_do_not_repeat():
    assert not np.array_equal(
        samples(DpSgdLearner, noise_source="secure", epochs=4), samples(DpSgdLearner, noise_source="secure", epochs=4)
    )


def check_secure_draws_everything_from_the_system(make: Make) -> None:
    """Count bytes: 8 for each example in each step, and 16 for each value of noise."""
    drawn = []

    def counted(count: int) -> bytes:
        drawn.append(count)
        return true(count)

    true = os.urandom
    model, steps = Silent(), 5
    learner = make(plain(10), noise_multiplier=1.0, max_grad_norm=1.0, noise_source="secure")
    with mock.patch.object(noise_sources.os, "urandom", counted):
        learner.fit(model, blank(50), window=TrainingWindow(), rng=Randomness(1))
    assert sum(drawn) == steps * (8 * 50 + 16 * 78_400)


def test_secure_sampling_and_noise_come_from_the_operating_system_in_full():
    check_secure_draws_everything_from_the_system(DpSgdLearner)


def test_seeded_samples_under_secure_noise_are_caught():
    with pytest.raises(AssertionError):
        check_secure_draws_everything_from_the_system(planted.SeededSampling)


def check_standard_normal(values: np.ndarray) -> None:
    # 200,000 values; each bound is at least five standard errors wide.
    assert abs(values.mean()) < 0.012
    assert values.std() == pytest.approx(1.0, rel=0.01)
    assert abs(stats.skew(values)) < 0.03
    assert abs(stats.kurtosis(values)) < 0.06
    assert stats.kstest(values, "norm").pvalue > 1e-6
    # Tails reach as far as they should: about 13 in 200,000 lie beyond 4.
    assert 0 < (np.abs(values) > 4).sum() < 50


def test_noise_of_the_operating_system_is_standard_normal():
    values = os_entropy_normal(200_000)
    assert values.shape == (200_000,)
    assert values.dtype == np.float64
    check_standard_normal(values)


def test_noise_that_is_not_standard_normal_is_caught():
    values = os_entropy_normal(200_000)
    for wrong in (
        values / 2,
        values * 1.02,
        values + 0.02,
        np.clip(values, -2.5, 2.5),
        np.sqrt(3) * (2 * os_entropy_uniform(200_000) - 1),
    ):
        with pytest.raises(AssertionError):
            check_standard_normal(wrong)


def test_uniform_values_of_the_operating_system_are_uniform_and_never_0_or_1():
    values = os_entropy_uniform(200_000)
    assert stats.kstest(values, "uniform").pvalue > 1e-6
    assert values.min() > 0.0
    assert values.max() < 1.0
    with mock.patch.object(noise_sources.os, "urandom", lambda count: b"\x00" * count):
        assert os_entropy_uniform(1)[0] > 0.0
    with mock.patch.object(noise_sources.os, "urandom", lambda count: b"\xff" * count):
        assert os_entropy_uniform(1)[0] <= 1.0
        assert np.isfinite(os_entropy_normal(1)).all()


# What may be known.


def check_no_loss_is_told(make: Make) -> None:
    told = {}
    make(plain(10, epochs=3, learning_rate=0.1), noise_multiplier=1.0, max_grad_norm=0.1).fit(
        cnn(), some(30), window=TrainingWindow(), rng=Randomness(1), after_epoch=told.__setitem__
    )
    assert told == {1: None, 2: None, 3: None}


def test_a_training_loss_of_private_examples_is_never_told():
    check_no_loss_is_told(DpSgdLearner)


def test_telling_a_loss_is_caught():
    with pytest.raises(AssertionError):
        check_no_loss_is_told(planted.TellsLoss)


def check_nothing_private_stays_on_the_model(learning_rate: float = 0.1) -> None:
    model = cnn()
    clean = len(pickle.dumps(model))
    try:
        DpSgdLearner(plain(10, learning_rate=learning_rate), noise_multiplier=1.0, max_grad_norm=0.1).fit(
            model, some(50), window=TrainingWindow(), rng=Randomness(1)
        )
    except TrainingDiverged:
        assert learning_rate > 1
    assert all(parameter.grad is None and not vars(parameter) for parameter in model.parameters())
    assert not any("activations" in vars(module) or module._forward_hooks for module in model.modules())
    assert len(pickle.dumps(model)) == clean


@pytest.mark.parametrize("learning_rate", [0.1, 1e39], ids=["trained", "diverged"])
def test_no_gradient_without_noise_and_no_activation_stays_on_the_model(learning_rate):
    check_nothing_private_stays_on_the_model(learning_rate)


def test_the_gradient_that_opacus_leaves_behind_is_caught(monkeypatch):
    monkeypatch.setattr(dpsgd, "_forget", lambda optimizer: None)
    with pytest.raises(AssertionError):
        check_nothing_private_stays_on_the_model()


def test_learns_under_noise_too():
    from ppml.learning.evaluation import evaluate

    train, test = digits()
    model = cnn()
    learner = DpSgdLearner(Settings(4, 128, 4.0), noise_multiplier=1.0, max_grad_norm=0.1)
    learner.fit(model, train, window=TrainingWindow(), rng=Randomness(1))
    assert evaluate(model, test)[1] > 0.5, "chance is 0.1"


# A training that diverges: the noisy weights alone decide, and are all that is told.


def diverging(model: nn.Module, examples: Examples, kind: type[DpSgdLearner] = DpSgdLearner) -> TrainingDiverged:
    """Train with noise that takes the weights close to the largest float32 number in step 1 and beyond it in step 2."""
    learner = kind(plain(10, learning_rate=6e35), noise_multiplier=1.0, max_grad_norm=1e3)
    with pytest.raises(TrainingDiverged) as raised:
        learner.fit(model, examples, window=TrainingWindow(), rng=Randomness(1))
    return raised.value


def test_a_step_that_diverges_is_named_and_the_last_good_weights_are_back():
    model, before = cnn(), vector(cnn())
    error = diverging(model, some(60))
    assert str(error) == (
        "a weight is not finite in step 2 of 6, epoch 1 of 1; the model has its weights after step 0 again"
    )
    assert (error.step, error.restored) == (2, 0)
    assert [event.steps for event in error.events] == [2]
    assert torch.equal(vector(model), before)


def check_no_exact_loss_decides(kind: type[DpSgdLearner]) -> None:
    """Compare two trainings whose examples differ and whose noisy weights agree in which steps they are finite."""
    worst = Examples(torch.full_like(some(60).inputs, math.inf), some(60).labels)
    first, second = (diverging(cnn(), examples, kind) for examples in (some(60), worst))
    assert str(first) == str(second)
    assert (first.step, first.restored, first.events) == (second.step, second.restored, second.events)


def test_losses_of_examples_that_are_not_finite_neither_stop_a_training_nor_are_named():
    check_no_exact_loss_decides(DpSgdLearner)


class StopsAtTheLoss(DpSgdLearner):
    """Lets the exact loss of the examples decide whether the training goes on."""

    def fit(self, *arguments, **settings):
        def telling(model, keeping, optimizer, images, labels):
            with torch.no_grad():
                loss = functional.cross_entropy(model(images), labels, reduction="sum").item()
            true(model, keeping, optimizer, images, labels)
            return loss

        true = dpsgd._private_step
        with mock.patch.object(dpsgd, "_private_step", telling):
            return super().fit(*arguments, **settings)


def test_a_loss_that_decides_is_caught():
    with pytest.raises(AssertionError):
        check_no_exact_loss_decides(StopsAtTheLoss)


def test_a_last_step_that_diverges_is_noticed():
    model, before = cnn(), vector(cnn())
    learner = DpSgdLearner(plain(60, learning_rate=1e39), noise_multiplier=1.0, max_grad_norm=0.1)
    with pytest.raises(TrainingDiverged, match=r"^a weight is not finite in step 1 of 1, .* after step 0 again"):
        learner.fit(model, some(60), window=TrainingWindow(), rng=Randomness(1))
    assert torch.equal(vector(model), before)


def test_the_weights_are_restored_that_the_last_epoch_with_finite_weights_began_with():
    kept: list[torch.Tensor] = []
    model = cnn()

    def poison(epoch, loss):
        kept.append(vector(model))
        if epoch == 3:
            with torch.no_grad():
                model[0].weight.fill_(math.nan)

    learner = DpSgdLearner(plain(10, epochs=5, learning_rate=0.1), noise_multiplier=1.0, max_grad_norm=0.1)
    with pytest.raises(TrainingDiverged, match=r"in step 10 of 15, epoch 4 of 5") as raised:
        learner.fit(model, some(30), window=TrainingWindow(), rng=Randomness(1), after_epoch=poison)
    assert raised.value.restored == 6, "epoch 4 began with weights that are not finite"
    assert torch.equal(vector(model), kept[1])


def test_a_sample_in_several_pieces_is_one_step_with_one_noise(monkeypatch):
    def trained(at_once: int):
        monkeypatch.setattr(bookkeeping, "MIN_EXAMPLES_PER_PASS", at_once)
        monkeypatch.setattr(bookkeeping, "VALUES_PER_PASS", 0)
        model = cnn()
        walk = Settings(epochs=2, batch_size=20, learning_rate=0.5)
        learner = DpSgdLearner(walk, noise_multiplier=1.0, max_grad_norm=0.1)
        return learner.fit(model, some(40), window=TrainingWindow(), rng=Randomness(3)), vector(model)

    (events, whole), (same_events, pieces) = trained(1_000), trained(7)
    assert events == same_events
    assert events[0].steps == 4
    assert np.allclose(whole, pieces, atol=1e-5)
