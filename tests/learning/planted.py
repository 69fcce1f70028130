"""Faults of DP-SGD, each planted by one patch. Every check must fail for the fault that it covers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from torch.nn import functional

from ppml.learning import dpsgd
from ppml.learning.clipping import BookKeeping
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.clipping.gradient_factors import PerExampleGradient
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.noise import SeededNoise
from ppml.learning.private_optimizer import PrivateOptimizer
from ppml.randomness import Randomness


def patch_around(owner, name, faulty):
    """Return a patch that calls ``faulty`` with the original function and the arguments of each call."""
    original = getattr(owner, name)
    return mock.patch.object(owner, name, lambda *given, **named: faulty(original, *given, **named))


# Noise.


def scale_noise(factor):
    """Return a patch that multiplies the noise of each step by ``factor(optimizer)``."""

    def faulty(original, optimizer):
        multiplier = optimizer.noise_multiplier
        optimizer.noise_multiplier = multiplier * factor(optimizer)
        original(optimizer)
        optimizer.noise_multiplier = multiplier

    return patch_around(PrivateOptimizer, "add_noise", faulty)


def half_the_noise():
    return scale_noise(lambda optimizer: 0.5)


def a_tenth_less_noise():
    return scale_noise(lambda optimizer: 0.9)


def no_noise():
    return scale_noise(lambda optimizer: 0.0)


def half_the_noise_under_momentum():
    return scale_noise(lambda optimizer: 0.5 if optimizer.param_groups[0]["momentum"] else 1.0)


def no_noise_in_the_last_step():
    """Omit the noise of the 40th step, the last of an audit of 40 releases."""
    steps = iter(range(1, 10**6))
    return scale_noise(lambda optimizer: 1.0 if not optimizer.noise_multiplier or next(steps) != 40 else 0.0)


def no_noise_on_the_last_parameter():
    def faulty(original, optimizer):
        last = optimizer.params[-1]
        total = last.summed_grad.clone()
        original(optimizer)
        last.grad = (total / optimizer.expected_batch_size).to(last.dtype)

    return patch_around(PrivateOptimizer, "add_noise", faulty)


def repeated_noise():
    """Draw the noise of every step from the same seed, so that differences of steps have none."""

    def faulty(original, optimizer):
        optimizer.noise = SeededNoise(np.random.default_rng(1))
        original(optimizer)

    return patch_around(PrivateOptimizer, "add_noise", faulty)


def uniform_noise():
    def faulty(original, noise, count, deviation):
        drawn = noise._generator.uniform(-(3**0.5), 3**0.5, count)
        return np.rint(drawn * deviation).astype(np.int64)

    return patch_around(SeededNoise, "rounded_normal", faulty)


@contextmanager
def noise_in_the_first_round_only():
    later_round = []

    def fit(original, learner, *given, window, **named):
        later_round[:] = [window.start > 0]
        return original(learner, *given, window=window, **named)

    with patch_around(DpSgdLearner, "fit", fit), scale_noise(lambda optimizer: 0.0 if later_round[0] else 1.0):
        yield


def seeded_noise():
    return patch_around(dpsgd, "build_noise_source", lambda original, source, rng: original("seeded", rng))


class MislabelledNoise(SeededNoise):
    """Seeded noise with the label of secure noise."""

    source = "secure"


def seeded_noise_labelled_secure():
    return mock.patch.object(dpsgd, "build_noise_source", lambda source, rng: MislabelledNoise(Randomness(1).numpy()))


# Clipping and division.


def unclipped(parts: Sequence[PerExampleGradient], max_grad_norm: float) -> torch.Tensor:
    """Return factors of 1."""
    return torch.ones_like(parts[0].squared_norms())


def no_clipping():
    return mock.patch.object(bookkeeping, "clipping_factors", unclipped)


def no_clipping_with_noise():
    def step(original, model, keeping, optimizer, *given):
        if not optimizer.noise_multiplier:
            return original(model, keeping, optimizer, *given)
        with no_clipping():
            return original(model, keeping, optimizer, *given)

    return patch_around(dpsgd, "_private_step", step)


def doubled_clipping_norm():
    def faulty(original, keeping, losses, count, norm):
        return original(keeping, losses, count, 2 * norm)

    return patch_around(BookKeeping, "clipped_gradient_sum", faulty)


def division_by_the_sample_size():
    """Divide by the private size of the sample."""

    def faulty(original, model, keeping, optimizer, images, labels):
        optimizer.expected_batch_size = max(1, len(images))
        return original(model, keeping, optimizer, images, labels)

    return patch_around(dpsgd, "_private_step", faulty)


# Samples.


def doubled_sample_rate():
    def faulty(original, records, rate, steps, source, rng):
        sampler = original(records, min(1.0, 2 * rate), steps, source, rng)
        sampler.rate = rate
        return sampler

    return patch_around(dpsgd, "build_sampler", faulty)


def samples_of_one_size():
    def faulty(original, records, rate, steps, source, rng):
        sampler = original(records, rate, steps, source, rng)
        size, order = len(records), rng.numpy()

        def uniform_draws():
            drawn = np.full(size, 2**64 - 1, dtype=np.uint64)
            drawn[order.permutation(size)[: round(rate * size)]] = 0
            return drawn

        sampler._coins = uniform_draws
        return sampler

    return patch_around(dpsgd, "build_sampler", faulty)


def shuffled_batches():
    """Plant fixed batches of a shuffled order."""

    def faulty(examples, rate, steps, source, rng):
        order = torch.randperm(len(examples), generator=rng.torch())
        return [part.tolist() for part in torch.tensor_split(order, steps)]

    return mock.patch.object(dpsgd, "build_sampler", faulty)


def skipped_empty_samples():
    def faulty(original, model, keeping, optimizer, images, labels):
        return original(model, keeping, optimizer, images, labels) if len(images) else None

    return patch_around(dpsgd, "_private_step", faulty)


def seeded_samples():
    def faulty(original, records, rate, steps, source, rng):
        return original(records, rate, steps, "seeded", rng)

    return patch_around(dpsgd, "build_sampler", faulty)


# Steps and their account.


def inverted_rate():
    """Take as many steps as Opacus' default, which loses one at some sizes."""

    def faulty(original, records, rate, steps, *others):
        return original(records, rate, int(1 / rate), *others)

    return patch_around(dpsgd, "build_sampler", faulty)


def more_steps_per_epoch(more: int):
    def faulty(original, records, batch_size):
        rate, steps = original(records, batch_size)
        return rate, steps + more

    return patch_around(dpsgd, "poisson_schedule", faulty)


def missing_step_per_epoch():
    return more_steps_per_epoch(-1)


def extra_step_per_epoch():
    return more_steps_per_epoch(1)


def ignored_budget():
    return patch_around(
        DpSgdLearner,
        "fit",
        lambda original, *given, affordable_steps, **named: original(*given, affordable_steps=None, **named),
    )


def changed_account(change):
    """Return a patch that applies ``change`` to every event of a training."""

    def faulty(original, *given, **named):
        return tuple(change(event) for event in original(*given, **named))

    return patch_around(DpSgdLearner, "fit", faulty)


def a_step_less_accounted():
    return changed_account(lambda event: replace(event, steps=event.steps - 1))


def wrong_noise_accounted():
    return changed_account(lambda event: replace(event, noise_multiplier=2 * event.noise_multiplier))


# Released information.


def released_loss():
    def faulty(original, *given, after_epoch, **named):
        return original(*given, after_epoch=lambda epoch, loss: after_epoch(epoch, 0.5), **named)

    return patch_around(DpSgdLearner, "fit", faulty)


def divergence_by_exact_loss():
    """Use the exact loss of the examples to decide on divergence."""

    def faulty(original, model, keeping, optimizer, images, labels):
        with torch.no_grad():
            loss = functional.cross_entropy(model(images), labels, reduction="sum").item()
        original(model, keeping, optimizer, images, labels)
        return loss

    return patch_around(dpsgd, "_private_step", faulty)


def kept_gradients():
    return mock.patch.object(dpsgd, "_clear_gradients", lambda optimizer: None)
