"""The claims of DP-SGD. Each claim is a check that the real learner passes and a planted fault fails."""

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
    return Settings(epochs, batch_size, learning_rate, momentum=0.0, learning_rate_schedule="constant", shift=shift)


def moved(learner: DpSgdLearner, model: nn.Module, examples: Examples, rng: Randomness | None = None) -> torch.Tensor:
    """Return the decrease of the weights."""
    before = vector(model)
    learner.fit(model, examples, window=TrainingWindow(), rng=rng or Randomness(1))
    return before - vector(model)


def clipped_sum(model: nn.Module, examples: Examples, norm: float) -> torch.Tensor:
    """Return the sum of clipped gradients, example by example: the oracle."""
    total = torch.zeros_like(vector(model))
    for image, label in zip(examples.inputs, examples.labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        gradient = torch.cat([one.reshape(-1) for one in torch.autograd.grad(loss, list(model.parameters()))])
        total += gradient * min(1.0, norm / gradient.norm().item())
    return total


# Gradient.


def check_step_is_clipped_sum_over_expected_batch_size(
    make: Make, *, weights: torch.memory_format, images: torch.memory_format, shift: int = 0
) -> None:
    # Rate 0.7 gives one step; draw its sample again.
    rng = Randomness(5)
    # In float64, since max pooling may choose either of two values within the float32 error.
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
def test_noiseless_step_is_clipped_sum_over_expected_batch_size(weights, images, shift):
    check_step_is_clipped_sum_over_expected_batch_size(DpSgdLearner, weights=weights, images=images, shift=shift)


@pytest.mark.parametrize("fault", [planted.ActualBatchSize, planted.NoClipping, planted.ShuffledBatches])
def test_step_check_detects_planted_faults(fault):
    with pytest.raises(AssertionError):
        check_step_is_clipped_sum_over_expected_batch_size(
            fault, weights=torch.contiguous_format, images=torch.contiguous_format
        )


def in_order():
    """Return a noise function with one generator in the order of the parameter's dimensions, as in Opacus."""
    generator = torch.Generator().manual_seed(9)

    def add(total, source, grid, divisor, dtype):
        deviation = grid.deviation * grid.step
        return (total + torch.normal(0.0, deviation, total.shape, generator=generator, dtype=total.dtype)) / divisor

    return add


def check_steps_equal_opacus(learner: type[DpSgdLearner]) -> None:
    training, privacy = Settings(2, 20, 0.2), {"noise_multiplier": 0.3, "max_grad_norm": 0.5}
    examples = Examples(some(60).inputs.double(), some(60).labels)
    released: list[torch.Tensor] = []

    def keep(gradients):
        released.append(torch.cat([one.flatten() for one in gradients]))

    here, there = cnn().double(), cnn().double()
    with mock.patch.object(private_optimizer, "add_grid_noise", in_order()):
        learner(training, **privacy, on_release=keep).fit(here, examples, window=TrainingWindow(), rng=Randomness(5))
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


def test_steps_equal_opacus_with_same_noise():
    check_steps_equal_opacus(DpSgdLearner)


@pytest.mark.parametrize("fault", [planted.NoClipping, planted.HalfNoise, planted.ActualBatchSize])
def test_opacus_check_detects_planted_faults(fault):
    with pytest.raises(AssertionError):
        check_steps_equal_opacus(fault)


# Sensitivity.


def check_example_changes_step_within_norm(make: Make, model: Callable[[], nn.Module], scale: float) -> None:
    ordinary, norm = some(20), 0.5
    outlier = Examples(ordinary.inputs[:1] * scale, (ordinary.labels[:1] + 1) % 10)
    joined = Examples(torch.cat([ordinary.inputs, outlier.inputs]), torch.cat([ordinary.labels, outlier.labels]))
    without, with_it = (
        # The only sample has all examples; the sum is the step times the expected batch size.
        moved(make(plain(len(examples)), noise_multiplier=0.0, max_grad_norm=norm), model(), examples) * len(examples)
        for examples in (ordinary, joined)
    )
    influence = (with_it - without).norm().item()
    assert 0.0 < influence <= norm * 1.001


def linear() -> nn.Module:
    """Return a model whose gradient is proportional to the image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("model", [cnn, linear], ids=["cnn", "linear"])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_example_changes_step_within_norm(model, scale):
    check_example_changes_step_within_norm(DpSgdLearner, model, scale)


@pytest.mark.parametrize("model", [cnn, linear], ids=["cnn", "linear"])
def test_sensitivity_check_detects_missing_clipping(model):
    with pytest.raises(AssertionError):
        check_example_changes_step_within_norm(planted.NoClipping, model, 1e3)


# Noise.


def check_noise_matches_events(
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
    # 78,400 values: standard errors are 0.25 % for the deviation, 0.0036 for the mean.
    assert noise.std().item() == pytest.approx(1.0, rel=0.02)
    assert abs(noise.mean().item()) < 0.025
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_noise_in_weights_matches_events(noise_source):
    check_noise_matches_events(DpSgdLearner, noise_source=noise_source)


def test_other_sampler_is_named_and_has_no_epsilon():
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
def test_noise_check_detects_half_noise(noise_source):
    with pytest.raises(AssertionError):
        check_noise_matches_events(planted.HalfNoise, noise_source=noise_source)


def test_noise_check_detects_repeated_noise():
    with pytest.raises(AssertionError):
        check_noise_matches_events(planted.SameNoiseEachStep)


def test_noise_check_detects_missing_event():
    with pytest.raises(AssertionError):
        check_noise_matches_events(planted.StatesOneStepLess)


def check_noise_on_real_gradients(make: Make, noise_source: str = "seeded") -> None:
    # The only sample has all examples, so that the difference of two runs is the noise.
    examples, noise_multiplier, norm = some(30), 0.8, 0.5
    silent, noisy = (
        moved(make(plain(30), noise_multiplier=noise, max_grad_norm=norm, noise_source=noise_source), cnn(), examples)
        for noise in (0.0, noise_multiplier)
    )
    noise = (noisy - silent) * 30 / (noise_multiplier * norm)
    # 26,106 values: the standard error of the deviation is 0.44 %.
    assert noise.std().item() == pytest.approx(1.0, rel=0.03)
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_noise_on_real_gradient_has_stated_deviation(noise_source):
    check_noise_on_real_gradients(DpSgdLearner, noise_source)


def test_real_gradient_check_detects_half_noise():
    with pytest.raises(AssertionError):
        check_noise_on_real_gradients(planted.HalfNoise)


# Sampling.


def samples(make: Make, *, noise_source: str = "seeded", epochs: int = 400) -> np.ndarray:
    """Return the membership of 100 examples in each step, shape ``(steps, 100)``, at rate 0.2."""
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
    # Binomial(100, 0.2): mean 20, variance 16, with standard errors of 1 % and 3 % for 2,000 steps.
    assert sizes.mean() == pytest.approx(20.0, rel=0.03)
    assert sizes.var() == pytest.approx(16.0, rel=0.18)
    assert drawn.mean(axis=0) == pytest.approx(np.full(100, 0.2), abs=0.06)
    # The membership of an example is independent of others and of the next step.
    correlation = np.corrcoef(drawn.T)[np.triu_indices(100, 1)]
    assert np.abs(correlation).max() < 0.15
    following = (drawn[1:] - 0.2) * (drawn[:-1] - 0.2)
    assert np.abs(following.mean(axis=0)).max() < 0.16 * 0.15


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_examples_are_sampled_independently(noise_source):
    check_sampling_is_poisson(DpSgdLearner, noise_source)


def test_sampling_check_detects_shuffled_batches():
    with pytest.raises(AssertionError):
        check_sampling_is_poisson(planted.ShuffledBatches)


# Number of steps.


def check_executed_steps_are_planned(make: Make, count: int, batch_size: int, epochs: int) -> None:
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
def test_executed_steps_are_planned_at_critical_sizes(examples, batch_size):
    check_executed_steps_are_planned(DpSgdLearner, examples, batch_size, 1)


@given(examples=st.integers(1, 150), batch_size=st.integers(1, 200), epochs=st.integers(1, 2))
@example(examples=1, batch_size=1, epochs=2)
@example(examples=3, batch_size=2, epochs=1)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_executed_steps_are_planned(examples, batch_size, epochs):
    check_executed_steps_are_planned(DpSgdLearner, examples, batch_size, epochs)


@pytest.mark.parametrize(
    ("fault", "examples", "batch_size"),
    [(planted.InvertedRate, 93, 1), (planted.StatesOneStepLess, 20, 5), (planted.SkipsEmpty, 60, 1)],
)
def test_step_count_check_detects_planted_faults(fault, examples, batch_size):
    with pytest.raises(AssertionError):
        check_executed_steps_are_planned(fault, examples, batch_size, 1)


# Empty samples.


def with_an_empty_first_sample(examples: Examples, rate: float) -> Randomness:
    def empty(rng: Randomness) -> bool:
        (sample,) = SeededSampler(examples, rate, 1, rng.child("sampling"))
        return len(sample) == 0

    return next(rng for rng in map(Randomness, range(1000)) if empty(rng))


def check_empty_sample_gets_noise(make: Make) -> None:
    rng = with_an_empty_first_sample(some(4), 0.75)
    # Rate 0.75 gives one step: it is empty, and only noise may change the weights.
    learner = make(plain(3), noise_multiplier=2.0, max_grad_norm=0.5)
    model = cnn()
    before = vector(model)
    events = learner.fit(model, some(4), window=TrainingWindow(), rng=rng)
    assert sum(event.steps for event in events) == 1
    assert ((vector(model) - before).std() * 3).item() == pytest.approx(2.0 * 0.5, rel=0.03)


def test_empty_sample_gets_noise_and_counts():
    check_empty_sample_gets_noise(DpSgdLearner)


def test_empty_sample_check_detects_skipped_step():
    with pytest.raises(AssertionError):
        check_empty_sample_gets_noise(planted.SkipsEmpty)


def test_single_example_can_be_trained():
    events = DpSgdLearner(plain(1, epochs=3, learning_rate=0.1), noise_multiplier=1.0, max_grad_norm=0.1).fit(
        cnn(), some(1), window=TrainingWindow(), rng=Randomness(1)
    )
    assert [(event.sample_rate, event.steps) for event in events] == [(1.0, 3)]


# Repeatability.


def private(noise_source: str = "seeded", *, seed: int = 1) -> torch.Tensor:
    learner = DpSgdLearner(
        Settings(2, 20, 0.1, shift=1), noise_multiplier=1.0, max_grad_norm=0.5, noise_source=noise_source
    )
    return moved(learner, cnn(), some(60), Randomness(seed))


def test_seeded_noise_is_independent_of_global_seed():
    torch.manual_seed(1)
    first = private()
    torch.manual_seed(2)
    assert torch.equal(first, private())


def test_seeds_have_different_noise():
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


def check_secure_training_uses_os_entropy(make: Make) -> None:
    """Count bytes: 8 per example and step, and 16 per value of noise."""
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


def test_secure_training_uses_os_entropy_only():
    check_secure_training_uses_os_entropy(DpSgdLearner)


def test_entropy_check_detects_seeded_samples():
    with pytest.raises(AssertionError):
        check_secure_training_uses_os_entropy(planted.SeededSampling)


def check_standard_normal(values: np.ndarray) -> None:
    # 200,000 values; each bound is at least five standard errors wide.
    assert abs(values.mean()) < 0.012
    assert values.std() == pytest.approx(1.0, rel=0.01)
    assert abs(stats.skew(values)) < 0.03
    assert abs(stats.kurtosis(values)) < 0.06
    assert stats.kstest(values, "norm").pvalue > 1e-6
    # Expected number beyond 4: about 13 in 200,000.
    assert 0 < (np.abs(values) > 4).sum() < 50


def test_os_entropy_normal_is_standard_normal():
    values = os_entropy_normal(200_000)
    assert values.shape == (200_000,)
    assert values.dtype == np.float64
    check_standard_normal(values)


def test_normality_check_detects_other_distributions():
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


def test_os_entropy_uniform_excludes_0_and_1():
    values = os_entropy_uniform(200_000)
    assert stats.kstest(values, "uniform").pvalue > 1e-6
    assert values.min() > 0.0
    assert values.max() < 1.0
    with mock.patch.object(noise_sources.os, "urandom", lambda count: b"\x00" * count):
        assert os_entropy_uniform(1)[0] > 0.0
    with mock.patch.object(noise_sources.os, "urandom", lambda count: b"\xff" * count):
        assert os_entropy_uniform(1)[0] <= 1.0
        assert np.isfinite(os_entropy_normal(1)).all()


# Released information.


def check_no_loss_is_released(make: Make) -> None:
    losses = {}
    make(plain(10, epochs=3, learning_rate=0.1), noise_multiplier=1.0, max_grad_norm=0.1).fit(
        cnn(), some(30), window=TrainingWindow(), rng=Randomness(1), after_epoch=losses.__setitem__
    )
    assert losses == {1: None, 2: None, 3: None}


def test_private_training_loss_is_not_released():
    check_no_loss_is_released(DpSgdLearner)


def test_loss_check_detects_released_loss():
    with pytest.raises(AssertionError):
        check_no_loss_is_released(planted.ReleasesLoss)


def check_model_keeps_no_private_state(learning_rate: float = 0.1) -> None:
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
def test_model_keeps_no_gradient_and_no_activation(learning_rate):
    check_model_keeps_no_private_state(learning_rate)


def test_state_check_detects_opacus_gradient(monkeypatch):
    monkeypatch.setattr(dpsgd, "_clear_gradients", lambda optimizer: None)
    with pytest.raises(AssertionError):
        check_model_keeps_no_private_state()


def test_private_training_learns():
    from ppml.learning.evaluation import evaluate

    train, test = digits()
    model = cnn()
    learner = DpSgdLearner(Settings(4, 128, 4.0), noise_multiplier=1.0, max_grad_norm=0.1)
    learner.fit(model, train, window=TrainingWindow(), rng=Randomness(1))
    assert evaluate(model, test)[1] > 0.5, "chance is 0.1"


# Divergence: only the noisy weights decide, and only they are reported.


def diverging(model: nn.Module, examples: Examples, kind: type[DpSgdLearner] = DpSgdLearner) -> TrainingDiverged:
    """Train with noise that takes the weights close to the largest float32 number in step 1 and beyond it in step 2."""
    learner = kind(plain(10, learning_rate=6e35), noise_multiplier=1.0, max_grad_norm=1e3)
    with pytest.raises(TrainingDiverged) as raised:
        learner.fit(model, examples, window=TrainingWindow(), rng=Randomness(1))
    return raised.value


def test_diverged_step_is_named_and_weights_are_restored():
    model, before = cnn(), vector(cnn())
    error = diverging(model, some(60))
    assert str(error) == (
        "a weight is not finite in step 2 of 6, epoch 1 of 1; the model has its weights after step 0 again"
    )
    assert (error.step, error.restored) == (2, 0)
    assert [event.steps for event in error.events] == [2]
    assert torch.equal(vector(model), before)


def check_divergence_is_independent_of_exact_loss(kind: type[DpSgdLearner]) -> None:
    """Compare two trainings with different examples and the same finite steps of the noisy weights."""
    worst = Examples(torch.full_like(some(60).inputs, math.inf), some(60).labels)
    first, second = (diverging(cnn(), examples, kind) for examples in (some(60), worst))
    assert str(first) == str(second)
    assert (first.step, first.restored, first.events) == (second.step, second.restored, second.events)


def test_divergence_is_independent_of_exact_loss():
    check_divergence_is_independent_of_exact_loss(DpSgdLearner)


class StopsAtTheLoss(DpSgdLearner):
    """Uses the exact loss of the examples to decide on divergence."""

    def fit(self, *arguments, **settings):
        def with_loss(model, keeping, optimizer, images, labels):
            with torch.no_grad():
                loss = functional.cross_entropy(model(images), labels, reduction="sum").item()
            true(model, keeping, optimizer, images, labels)
            return loss

        true = dpsgd._private_step
        with mock.patch.object(dpsgd, "_private_step", with_loss):
            return super().fit(*arguments, **settings)


def test_divergence_check_detects_exact_loss():
    with pytest.raises(AssertionError):
        check_divergence_is_independent_of_exact_loss(StopsAtTheLoss)


def test_divergence_in_last_step_is_detected():
    model, before = cnn(), vector(cnn())
    learner = DpSgdLearner(plain(60, learning_rate=1e39), noise_multiplier=1.0, max_grad_norm=0.1)
    with pytest.raises(TrainingDiverged, match=r"^a weight is not finite in step 1 of 1, .* after step 0 again"):
        learner.fit(model, some(60), window=TrainingWindow(), rng=Randomness(1))
    assert torch.equal(vector(model), before)


def test_restored_weights_are_last_finite_epoch_start():
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
    assert raised.value.restored == 6, "epoch 4 started with weights that are not finite"
    assert torch.equal(vector(model), kept[1])


def test_sample_in_chunks_is_one_noisy_step(monkeypatch):
    def trained(at_once: int):
        monkeypatch.setattr(bookkeeping, "MIN_EXAMPLES_PER_PASS", at_once)
        monkeypatch.setattr(bookkeeping, "VALUES_PER_PASS", 0)
        model = cnn()
        training = Settings(epochs=2, batch_size=20, learning_rate=0.5)
        learner = DpSgdLearner(training, noise_multiplier=1.0, max_grad_norm=0.1)
        return learner.fit(model, some(40), window=TrainingWindow(), rng=Randomness(3)), vector(model)

    (events, whole), (same_events, pieces) = trained(1_000), trained(7)
    assert events == same_events
    assert events[0].steps == 4
    assert np.allclose(whole, pieces, atol=1e-5)
