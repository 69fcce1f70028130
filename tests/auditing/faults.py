"""Faults of private training, each planted by one patch; the audit must name each fault."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import torch

import ppml.federation.factory as build
import ppml.learning.dpsgd as dpsgd
from ppml.accounting.events import compose
from ppml.federation import client_state as state
from ppml.federation import distributed_dp as shares
from ppml.federation import messages
from ppml.federation.algorithms import FedAvg
from ppml.federation.distributed_dp import CentralGaussian, DistributedDpSgd, DistributedGaussian, DpFedAvg
from ppml.learning.clipping import BookKeeping
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.noise import SeededNoise
from ppml.learning.private_optimizer import PrivateOptimizer
from ppml.randomness import Randomness

from .arms import half


def patch_around(owner, name, faulty):
    """Return a patch that calls ``faulty`` with the original function and the arguments of each call."""
    original = getattr(owner, name)
    return mock.patch.object(owner, name, lambda *given, **named: faulty(original, *given, **named))


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
    def faulty(original, optimizer):
        optimizer.noise = SeededNoise(np.random.default_rng(1))
        original(optimizer)

    return patch_around(PrivateOptimizer, "add_noise", faulty)


def uniform_noise():
    def faulty(original, noise, count, deviation):
        drawn = noise._generator.uniform(-(3**0.5), 3**0.5, count)
        return np.rint(drawn * deviation).astype(np.int64)

    return patch_around(SeededNoise, "rounded_normal", faulty)


def doubled_clipping_norm():
    def faulty(original, keeping, losses, count, norm):
        return original(keeping, losses, count, 2 * norm)

    return patch_around(BookKeeping, "clipped_gradient_sum", faulty)


def no_clipping():
    return patch_around(
        bookkeeping, "clipping_factors", lambda original, parts, norm: torch.ones_like(original(parts, norm))
    )


def no_clipping_with_noise():
    def step(original, model, keeping, optimizer, *given):
        if not optimizer.noise_multiplier:
            return original(model, keeping, optimizer, *given)
        with no_clipping():
            return original(model, keeping, optimizer, *given)

    return patch_around(dpsgd, "_private_step", step)


def division_by_the_sample_size():
    def faulty(original, model, keeping, optimizer, images, labels):
        optimizer.expected_batch_size = max(1, len(images))
        return original(model, keeping, optimizer, images, labels)

    return patch_around(dpsgd, "_private_step", faulty)


def doubled_sample_rate():
    def faulty(original, records, rate, steps, source, rng):
        sampler = original(records, min(1.0, 2 * rate), steps, source, rng)
        sampler.rate = rate
        return sampler

    return patch_around(dpsgd, "build_sampler", faulty)


def shuffled_samples():
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


def skipped_empty_samples():
    def faulty(original, model, keeping, optimizer, images, labels):
        return original(model, keeping, optimizer, images, labels) if len(images) else None

    return patch_around(dpsgd, "_private_step", faulty)


def noise_in_the_first_round_only():
    later_round = []

    def fit(original, learner, *given, window, **named):
        later_round[:] = [window.start > 0]
        return original(learner, *given, window=window, **named)

    return BothPatches(
        patch_around(DpSgdLearner, "fit", fit), scale_noise(lambda optimizer: 0.0 if later_round[0] else 1.0)
    )


class BothPatches:
    """Context manager of two patches."""

    def __init__(self, *patches):
        self._patches = patches

    def __enter__(self):
        for patch in self._patches:
            patch.__enter__()

    def __exit__(self, *error):
        for patch in reversed(self._patches):
            patch.__exit__(*error)


def equal_noise_of_all_clients():
    def faulty(original, rng, clients):
        seeds = original(rng, clients)
        return replace(seeds, clients=dict.fromkeys(seeds.clients, seeds.clients[0]))

    return patch_around(build, "party_seeds", faulty)


def counted_colluder():
    return mock.patch.object(
        DistributedGaussian, "honest_clients", property(lambda shares: shares.clients - shares.max_dropouts)
    )


def client_without_noise(kind=DistributedDpSgd):
    def faulty(original, work, model, member, turn):
        found = original(work, model, member, turn)
        return replace(found, noise=0 * found.noise) if turn.client == 2 else found

    return patch_around(kind, "compute_update", faulty)


def client_level_client_without_noise():
    return client_without_noise(DpFedAvg)


def half_the_noise_of_every_client():
    def faulty(original, *given):
        drawn = original(*given)
        return drawn._replace(values=half(drawn.values))

    return patch_around(DistributedGaussian, "sample", faulty)


def half_the_noise_of_the_server():
    return patch_around(CentralGaussian, "__call__", _half_of_the_server)


def _half_of_the_server(original, noise, total, number):
    sealed, events = original(replace(noise, noise_multiplier=noise.noise_multiplier / 2), total, number)
    return sealed, tuple(replace(event, noise_multiplier=noise.noise_multiplier) for event in events)


def doubled_update_norm():
    def faulty(original, work, model, member, turn):
        return original(replace(work, max_update_norm=2 * work.max_update_norm), model, member, turn)

    return patch_around(DpFedAvg, "compute_update", faulty)


def shifted_update():
    def faulty(original, work, model, member, turn):
        found = original(work, model, member, turn)
        values = found.values.copy()
        values[:-1] += 1e-3
        return replace(found, values=values)

    return patch_around(FedAvg, "compute_update", faulty)


def reset_account():
    def remember(client, events):
        if events:
            client._state["events"] = messages.pack_events(compose(events))

    return mock.patch.object(state.ClientState, "append_events", remember)


def half_the_steps_accounted():
    def faulty(original, *given, **named):
        return tuple(replace(event, steps=event.steps // 2) for event in original(*given, **named))

    return patch_around(DpSgdLearner, "fit", faulty)


def wrong_noise_accounted():
    def faulty(original, *given, **named):
        events = original(*given, **named)
        return tuple(replace(event, noise_multiplier=2 * event.noise_multiplier) for event in events)

    return patch_around(DpSgdLearner, "fit", faulty)


def missing_step_per_epoch():
    def faulty(original, records, batch_size):
        rate, steps = original(records, batch_size)
        return rate, steps - 1

    return patch_around(dpsgd, "poisson_schedule", faulty)


def extra_step_per_epoch():
    def faulty(original, records, batch_size):
        rate, steps = original(records, batch_size)
        return rate, steps + 1

    return patch_around(dpsgd, "poisson_schedule", faulty)


def ignored_budget():
    return patch_around(
        DpSgdLearner, "fit", lambda original, *given, max_steps, **named: original(*given, max_steps=None, **named)
    )


def seeded_noise_of_owners():
    return patch_around(dpsgd, "build_noise_source", lambda original, source, rng: original("seeded", rng))


def seeded_noise_in_sums():
    return patch_around(shares, "build_noise_source", lambda original, source, rng: original("seeded", rng))


def seeded_samples():
    def faulty(original, records, rate, steps, source, rng):
        return original(records, rate, steps, "seeded", rng)

    return patch_around(dpsgd, "build_sampler", faulty)


class MislabelledNoise(SeededNoise):
    """Seeded noise with the label of secure noise."""

    source = "secure"


def seeded_noise_labelled_secure():
    return patch_around(
        dpsgd, "build_noise_source", lambda original, source, rng: MislabelledNoise(Randomness(1).numpy())
    )
