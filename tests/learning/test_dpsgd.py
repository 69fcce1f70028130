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
from ppml.accounting.events import MechanismEvent
from ppml.accounting.schedule import poisson_schedule
from ppml.data.examples import Examples
from ppml.example_draws import draws_per_step
from ppml.learning import dpsgd, private_optimizer
from ppml.learning import noise as noise_sources
from ppml.learning.augmentation import shift_batch
from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged, no_op
from ppml.learning.poisson import SeededSampler
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness

from . import planted
from .digits import Silent, blank, cnn, digits, some, vector

ROOT = Randomness(1)


def plain(batch_size: int, *, epochs: int = 1, learning_rate: float = 1.0, shift: int = 0) -> Settings:
    """Return settings under which a step moves the weights by its gradient."""
    return Settings(epochs, batch_size, learning_rate, momentum=0.0, learning_rate_schedule="constant", shift=shift)


def fit(
    how: Settings,
    model: nn.Module,
    examples: Examples,
    *,
    noise_multiplier: float = 1.0,
    max_grad_norm: float = 0.1,
    noise_source: str = "seeded",
    rng: Randomness = ROOT,
    after_epoch: AfterEpoch = no_op,
) -> tuple[MechanismEvent, ...]:
    """Train ``model`` in place and return the executed steps."""
    learner = DpSgdLearner(
        how, noise_multiplier=noise_multiplier, max_grad_norm=max_grad_norm, noise_source=noise_source
    )
    return learner.fit(model, examples, window=TrainingWindow(), rng=rng, after_epoch=after_epoch)


def moved(how: Settings, model: nn.Module, examples: Examples, **privacy) -> torch.Tensor:
    """Return the decrease of the weights in a training by :func:`fit`."""
    before = vector(model)
    fit(how, model, examples, **privacy)
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


FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@pytest.mark.parametrize("weights", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("images", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("shift", [0, 2])
def test_noiseless_step_is_clipped_sum_over_expected_batch_size(weights, images, shift):
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
    model, arriving = cnn().double().to(memory_format=weights), examples.inputs.to(memory_format=images)
    step = moved(
        plain(28, shift=shift),
        model,
        Examples(arriving, examples.labels),
        noise_multiplier=0.0,
        max_grad_norm=0.5,
        rng=rng,
    )
    assert (step - expected).norm() / expected.norm() < 1e-4


def in_order():
    """Return a noise function with one generator in the order of the parameter's dimensions, as in Opacus."""
    generator = torch.Generator().manual_seed(9)

    def add(total, source, grid, divisor, dtype):
        deviation = grid.deviation * grid.step
        return (total + torch.normal(0.0, deviation, total.shape, generator=generator, dtype=total.dtype)) / divisor

    return add


def test_steps_equal_opacus_with_same_noise():
    training, privacy = Settings(2, 20, 0.2), {"noise_multiplier": 0.3, "max_grad_norm": 0.5}
    examples = Examples(some(60).inputs.double(), some(60).labels)
    released: list[torch.Tensor] = []

    def keep(gradients):
        released.append(torch.cat([one.flatten() for one in gradients]))

    here, there = cnn().double(), cnn().double()
    with mock.patch.object(private_optimizer, "add_grid_noise", in_order()):
        learner = DpSgdLearner(training, **privacy, on_release=keep)
        learner.fit(here, examples, window=TrainingWindow(), rng=Randomness(5))
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


# Sensitivity.


def linear() -> nn.Module:
    """Return a model whose gradient is proportional to the image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("model", [cnn, linear])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_example_changes_step_within_norm(model, scale):
    ordinary, norm = some(20), 0.5
    outlier = Examples(ordinary.inputs[:1] * scale, (ordinary.labels[:1] + 1) % 10)
    joined = Examples(torch.cat([ordinary.inputs, outlier.inputs]), torch.cat([ordinary.labels, outlier.labels]))
    without, with_it = (
        # The only sample has all examples; the sum is the step times the expected batch size.
        moved(plain(len(examples)), model(), examples, noise_multiplier=0.0, max_grad_norm=norm) * len(examples)
        for examples in (ordinary, joined)
    )
    influence = (with_it - without).norm().item()
    assert 0.0 < influence <= norm * 1.001


# Noise.


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_noise_in_weights_matches_events(noise_source, device="cpu"):
    model, examples = Silent().to(device), blank(50).to(device)
    events = fit(
        plain(10, epochs=2, learning_rate=0.5),
        model,
        examples,
        noise_multiplier=1.5,
        max_grad_norm=0.2,
        noise_source=noise_source,
    )
    stated = math.sqrt(sum(event.steps * (event.noise_multiplier * event.max_grad_norm) ** 2 for event in events))
    noise = vector(model).cpu() * 10 / 0.5 / stated
    # 78,400 values: standard errors are 0.25 % for the deviation, 0.0036 for the mean.
    assert noise.std().item() == pytest.approx(1.0, rel=0.02)
    assert abs(noise.mean().item()) < 0.025
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6


def test_other_sampler_is_named_and_has_no_epsilon():
    with planted.shuffled_batches():
        (event,) = fit(plain(20), cnn(), some(60))
    assert (event.sampler, event.sample_rate) == ("list", 1.0)
    with pytest.raises(ValueError, match="claimed for sampler 'list'"):
        epsilon([event], 1e-5, "prv")
    (event,) = fit(plain(20), cnn(), some(60))
    assert (event.sampler, event.sample_rate) == ("poisson", 1 / 3)


# Sampling.


def samples(noise_source: str, epochs: int = 400) -> np.ndarray:
    """Return the membership of 100 examples in each step, shape ``(steps, 100)``, at rate 0.2."""
    numbered = Examples(torch.arange(100.0).reshape(100, 1, 1, 1), torch.zeros(100, dtype=torch.int64))
    rows = []

    def look(model, keeping, optimizer, images, labels):
        rows.append(np.bincount(images.reshape(-1).long().numpy(), minlength=100))

    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    with mock.patch.object(dpsgd, "_private_step", look):
        fit(plain(20, epochs=epochs), model, numbered, noise_source=noise_source, rng=Randomness(2))
    return np.stack(rows)


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_examples_are_sampled_independently(noise_source):
    drawn = samples(noise_source)
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


# Number of steps.


def check_executed_steps_are_planned(count: int, batch_size: int, epochs: int = 1) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    examples = Examples(torch.ones(count, 1, 2, 2), torch.zeros(count, dtype=torch.int64))
    with mock.patch.object(dpsgd, "_private_step", wraps=dpsgd._private_step) as step:
        events = fit(plain(batch_size, epochs=epochs, learning_rate=0.1), model, examples)
    rate, planned = poisson_schedule(count, batch_size)
    assert planned == max(1, round(count / min(batch_size, count)))
    assert step.call_count == sum(event.steps for event in events) == planned * epochs
    assert {(event.sample_rate, event.sampler) for event in events} == {(rate, "poisson")}
    assert rate == pytest.approx(min(1.0, batch_size / count))


@pytest.mark.parametrize("batch_size", [1, 8, 13])
@pytest.mark.parametrize("examples", [93, 99, 105, 117, 123, 234])
def test_executed_steps_are_planned_at_critical_sizes(examples, batch_size):
    check_executed_steps_are_planned(examples, batch_size)


@given(examples=st.integers(1, 150), batch_size=st.integers(1, 200), epochs=st.integers(1, 2))
@example(examples=1, batch_size=1, epochs=2)
@example(examples=3, batch_size=2, epochs=1)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_executed_steps_are_planned(examples, batch_size, epochs):
    check_executed_steps_are_planned(examples, batch_size, epochs)


# Empty samples.


def with_an_empty_first_sample(examples: Examples, rate: float) -> Randomness:
    def empty(rng: Randomness) -> bool:
        (sample,) = SeededSampler(examples, rate, 1, rng.child("sampling"))
        return len(sample) == 0

    return next(rng for rng in map(Randomness, range(1000)) if empty(rng))


def test_empty_sample_gets_noise_and_counts():
    rng = with_an_empty_first_sample(some(4), 0.75)
    # Rate 0.75 gives one step: it is empty, and only noise may change the weights.
    model = cnn()
    before = vector(model)
    events = fit(plain(3), model, some(4), noise_multiplier=2.0, max_grad_norm=0.5, rng=rng)
    assert sum(event.steps for event in events) == 1
    assert ((vector(model) - before).std() * 3).item() == pytest.approx(2.0 * 0.5, rel=0.03)


# Repeatability.


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_only_seeded_training_repeats_for_any_global_seed(noise_source):
    def private(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        return moved(Settings(2, 20, 0.1, shift=1), cnn(), some(60), noise_source=noise_source, rng=Randomness(seed))

    first = private(1, 1)
    assert torch.equal(first, private(1, 2)) == (noise_source == "seeded")
    assert not torch.equal(first, private(2, 1))
    assert noise_source == "seeded" or not torch.equal(first, private(1, 1))


def test_secure_samples_do_not_repeat():
    assert not np.array_equal(samples("secure", epochs=4), samples("secure", epochs=4))


def test_secure_training_uses_os_entropy_only():
    """Count bytes: 8 per example and step, and 16 per value of noise."""
    model, steps = Silent(), 5
    with mock.patch.object(noise_sources.os, "urandom", wraps=os.urandom) as system:
        fit(plain(10), model, blank(50), noise_source="secure")
    drawn = [call.args[0] for call in system.call_args_list]
    assert sum(drawn) == steps * (8 * 50 + 16 * 78_400)


# Released information.


def test_private_training_loss_is_not_released():
    losses = {}
    fit(plain(10, epochs=3, learning_rate=0.1), cnn(), some(30), after_epoch=losses.__setitem__)
    assert losses == {1: None, 2: None, 3: None}


@pytest.mark.parametrize("learning_rate", [0.1, 1e39], ids=["trained", "diverged"])
def test_model_keeps_no_gradient_and_no_activation(learning_rate):
    model = cnn()
    clean = len(pickle.dumps(model))
    try:
        fit(plain(10, learning_rate=learning_rate), model, some(50))
    except TrainingDiverged:
        assert learning_rate > 1
    assert all(parameter.grad is None and not vars(parameter) for parameter in model.parameters())
    assert not any("activations" in vars(module) or module._forward_hooks for module in model.modules())
    assert len(pickle.dumps(model)) == clean


def test_private_training_learns():
    from ppml.learning.evaluation import evaluate

    train, test = digits()
    model = cnn()
    fit(Settings(4, 128, 4.0), model, train)
    assert evaluate(model, test)[1] > 0.5, "chance is 0.1"


# Divergence: only the noisy weights decide, and only they are reported.


def diverging(model: nn.Module, examples: Examples) -> TrainingDiverged:
    """Train with noise that takes the weights close to the largest float32 number in step 1 and beyond it in step 2."""
    with pytest.raises(TrainingDiverged) as raised:
        fit(plain(10, learning_rate=6e35), model, examples, max_grad_norm=1e3)
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


def test_divergence_is_independent_of_exact_loss():
    """Compare two trainings with different examples and the same finite steps of the noisy weights."""
    worst = Examples(torch.full_like(some(60).inputs, math.inf), some(60).labels)
    first, second = (diverging(cnn(), examples) for examples in (some(60), worst))
    assert str(first) == str(second)
    assert (first.step, first.restored, first.events) == (second.step, second.restored, second.events)


def test_divergence_in_last_step_is_detected():
    model, before = cnn(), vector(cnn())
    with pytest.raises(TrainingDiverged, match=r"^a weight is not finite in step 1 of 1, .* after step 0 again"):
        fit(plain(60, learning_rate=1e39), model, some(60))
    assert torch.equal(vector(model), before)


def test_restored_weights_are_last_finite_epoch_start():
    kept: list[torch.Tensor] = []
    model = cnn()

    def poison(epoch, loss):
        kept.append(vector(model))
        if epoch == 3:
            with torch.no_grad():
                model[0].weight.fill_(math.nan)

    with pytest.raises(TrainingDiverged, match=r"in step 10 of 15, epoch 4 of 5") as raised:
        fit(plain(10, epochs=5, learning_rate=0.1), model, some(30), after_epoch=poison)
    assert raised.value.restored == 6, "epoch 4 started with weights that are not finite"
    assert torch.equal(vector(model), kept[1])


def test_sample_in_chunks_is_one_noisy_step(monkeypatch):
    def trained(at_once: int):
        monkeypatch.setattr(bookkeeping, "MIN_EXAMPLES_PER_PASS", at_once)
        monkeypatch.setattr(bookkeeping, "VALUES_PER_PASS", 0)
        model = cnn()
        training = Settings(epochs=2, batch_size=20, learning_rate=0.5)
        return fit(training, model, some(40), rng=Randomness(3)), vector(model)

    (events, whole), (same_events, pieces) = trained(1_000), trained(7)
    assert events == same_events
    assert events[0].steps == 4
    assert np.allclose(whole, pieces, atol=1e-5)


# Planted faults.

PLAIN_STEP = {"weights": torch.contiguous_format, "images": torch.contiguous_format, "shift": 0}
DETECTED: list[tuple[Callable, Callable, dict[str, object]]] = [
    (planted.division_by_the_sample_size, test_noiseless_step_is_clipped_sum_over_expected_batch_size, PLAIN_STEP),
    (planted.no_clipping, test_noiseless_step_is_clipped_sum_over_expected_batch_size, PLAIN_STEP),
    (planted.shuffled_batches, test_noiseless_step_is_clipped_sum_over_expected_batch_size, PLAIN_STEP),
    (planted.no_clipping, test_steps_equal_opacus_with_same_noise, {}),
    (planted.half_the_noise, test_steps_equal_opacus_with_same_noise, {}),
    (planted.division_by_the_sample_size, test_steps_equal_opacus_with_same_noise, {}),
    (planted.no_clipping, test_example_changes_step_within_norm, {"model": cnn, "scale": 1e3}),
    (planted.no_clipping, test_example_changes_step_within_norm, {"model": linear, "scale": 1e3}),
    (planted.half_the_noise, test_noise_in_weights_matches_events, {"noise_source": "seeded"}),
    (planted.half_the_noise, test_noise_in_weights_matches_events, {"noise_source": "secure"}),
    (planted.repeated_noise, test_noise_in_weights_matches_events, {"noise_source": "seeded"}),
    (planted.a_step_less_accounted, test_noise_in_weights_matches_events, {"noise_source": "seeded"}),
    (planted.shuffled_batches, test_examples_are_sampled_independently, {"noise_source": "seeded"}),
    (planted.samples_of_one_size, test_examples_are_sampled_independently, {"noise_source": "seeded"}),
    (planted.inverted_rate, check_executed_steps_are_planned, {"count": 93, "batch_size": 1}),
    (planted.a_step_less_accounted, check_executed_steps_are_planned, {"count": 20, "batch_size": 5}),
    (planted.skipped_empty_samples, check_executed_steps_are_planned, {"count": 60, "batch_size": 1}),
    (planted.skipped_empty_samples, test_empty_sample_gets_noise_and_counts, {}),
    (planted.seeded_samples, test_secure_training_uses_os_entropy_only, {}),
    (planted.released_loss, test_private_training_loss_is_not_released, {}),
    (planted.kept_gradients, test_model_keeps_no_gradient_and_no_activation, {"learning_rate": 0.1}),
    (planted.divergence_by_exact_loss, test_divergence_is_independent_of_exact_loss, {}),
]


@pytest.mark.parametrize(("fault", "check", "arguments"), DETECTED, ids=lambda value: getattr(value, "__name__", ""))
def test_check_detects_planted_fault(fault, check, arguments):
    with fault(), pytest.raises(AssertionError):
        check(**arguments)
