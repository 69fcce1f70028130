"""Faults that are planted in the code that trains, each by one patch; the audit must name it."""

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
from ppml.federation.algorithms import WeightedUpdates
from ppml.federation.distributed_dp import ClippedUpdates, GradientSums, NoiseShares, ServerNoise
from ppml.learning.clipping import BookKeeping
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.noise import SeededNoise
from ppml.learning.private_optimizer import PrivateOptimizer
from ppml.randomness import Randomness

from .arms import halved


def around(owner, name, faulty):
    """Return a patch that gives ``faulty`` the original and the arguments of each call."""
    original = getattr(owner, name)
    return mock.patch.object(owner, name, lambda *given, **named: faulty(original, *given, **named))


def with_noise_of(share):
    """Return a patch of the noise of each step: ``share`` gives, by the optimiser, how much of it there is."""

    def faulty(original, optimizer):
        true, part = optimizer.noise_multiplier, share(optimizer)
        optimizer.noise_multiplier = true * part
        original(optimizer)
        optimizer.noise_multiplier = true

    return around(PrivateOptimizer, "add_noise", faulty)


def half_the_noise():
    return with_noise_of(lambda optimizer: 0.5)


def a_tenth_less_noise():
    return with_noise_of(lambda optimizer: 0.9)


def no_noise():
    return with_noise_of(lambda optimizer: 0.0)


def half_the_noise_under_momentum():
    return with_noise_of(lambda optimizer: 0.5 if optimizer.param_groups[0]["momentum"] else 1.0)


def none_on_the_last_step():
    """Leave the noise of the 40th step out, the last of an audit of 40 releases."""
    steps = iter(range(1, 10**6))
    return with_noise_of(lambda optimizer: 1.0 if not optimizer.noise_multiplier or next(steps) != 40 else 0.0)


def none_on_the_last_parameter():
    def faulty(original, optimizer):
        last = optimizer.params[-1]
        bare = last.summed_grad.clone()
        original(optimizer)
        last.grad = (bare / optimizer.expected_batch_size).to(last.dtype)

    return around(PrivateOptimizer, "add_noise", faulty)


def the_same_noise_each_step():
    def faulty(original, optimizer):
        optimizer.noise = SeededNoise(np.random.default_rng(1))
        original(optimizer)

    return around(PrivateOptimizer, "add_noise", faulty)


def uniform_noise():
    def faulty(original, noise, count, deviation):
        drawn = noise._generator.uniform(-(3**0.5), 3**0.5, count)
        return np.rint(drawn * deviation).astype(np.int64)

    return around(SeededNoise, "whole", faulty)


def twice_the_clipping_norm():
    def faulty(original, keeping, losses, count, norm):
        return original(keeping, losses, count, 2 * norm)

    return around(BookKeeping, "sum_clipped", faulty)


def no_clipping():
    return around(bookkeeping, "clipping_factors", lambda original, parts, norm: torch.ones_like(original(parts, norm)))


def no_clipping_where_there_is_noise():
    def step(original, model, keeping, optimizer, *given):
        if not optimizer.noise_multiplier:
            return original(model, keeping, optimizer, *given)
        with no_clipping():
            return original(model, keeping, optimizer, *given)

    return around(dpsgd, "_private_step", step)


def division_by_the_size_of_the_sample():
    def faulty(original, model, keeping, optimizer, images, labels):
        optimizer.expected_batch_size = max(1, len(images))
        return original(model, keeping, optimizer, images, labels)

    return around(dpsgd, "_private_step", faulty)


def sampled_at_twice_the_rate():
    def faulty(original, records, rate, steps, source, rng):
        sampler = original(records, min(1.0, 2 * rate), steps, source, rng)
        sampler.rate = rate
        return sampler

    return around(dpsgd, "build_sampler", faulty)


def sampled_by_shuffling():
    def faulty(original, records, rate, steps, source, rng):
        sampler = original(records, rate, steps, source, rng)
        size, order = len(records), rng.numpy()

        def coins():
            drawn = np.full(size, 2**64 - 1, dtype=np.uint64)
            drawn[order.permutation(size)[: round(rate * size)]] = 0
            return drawn

        sampler._coins = coins
        return sampler

    return around(dpsgd, "build_sampler", faulty)


def empty_samples_left_out():
    def faulty(original, model, keeping, optimizer, images, labels):
        return original(model, keeping, optimizer, images, labels) if len(images) else None

    return around(dpsgd, "_private_step", faulty)


def noise_in_the_first_round_only():
    later = []

    def fit(original, learner, *given, span, **named):
        later[:] = [span.start > 0]
        return original(learner, *given, span=span, **named)

    return Both(around(DpSgdLearner, "fit", fit), with_noise_of(lambda optimizer: 0.0 if later[0] else 1.0))


class Both:
    """Two patches."""

    def __init__(self, *patches):
        self._patches = patches

    def __enter__(self):
        for patch in self._patches:
            patch.__enter__()

    def __exit__(self, *error):
        for patch in reversed(self._patches):
            patch.__exit__(*error)


def the_noise_of_client_0_at_every_client():
    def faulty(original, rng, clients):
        seeds = original(rng, clients)
        return replace(seeds, clients=dict.fromkeys(seeds.clients, seeds.clients[0]))

    return around(build, "party_seeds", faulty)


def a_colluder_that_counts():
    return mock.patch.object(NoiseShares, "counted", property(lambda shares: shares.clients - shares.dropouts))


def a_client_without_its_share(kind=GradientSums):
    def faulty(original, work, model, member, turn):
        found = original(work, model, member, turn)
        return replace(found, noise=0 * found.noise) if turn.client == 2 else found

    return around(kind, "contribute", faulty)


def a_client_that_changes_its_share():
    return a_client_without_its_share(ClippedUpdates)


def half_of_every_share():
    def faulty(original, *given):
        drawn = original(*given)
        return drawn._replace(values=halved(drawn.values))

    return around(NoiseShares, "draw", faulty)


def half_the_noise_of_the_server():
    return around(ServerNoise, "__call__", _half_of_the_server)


def _half_of_the_server(original, noise, total, number):
    sealed, events = original(replace(noise, noise_multiplier=noise.noise_multiplier / 2), total, number)
    return sealed, tuple(replace(event, noise_multiplier=noise.noise_multiplier) for event in events)


def updates_of_twice_the_norm():
    def faulty(original, work, model, member, turn):
        return original(replace(work, norm=2 * work.norm), model, member, turn)

    return around(ClippedUpdates, "contribute", faulty)


def an_update_without_the_noise_of_its_last_step():
    def faulty(original, work, model, member, turn):
        found = original(work, model, member, turn)
        values = found.values.copy()
        values[:-1] += 1e-3
        return replace(found, values=values)

    return around(WeightedUpdates, "contribute", faulty)


def an_account_that_is_reset():
    def remember(client, events):
        if events:
            client._state["events"] = messages.pack_events(compose(events))

    return mock.patch.object(state.ClientState, "remember", remember)


def half_of_the_steps_accounted():
    def faulty(original, *given, **named):
        return tuple(replace(event, steps=event.steps // 2) for event in original(*given, **named))

    return around(DpSgdLearner, "fit", faulty)


def another_noise_accounted():
    def faulty(original, *given, **named):
        events = original(*given, **named)
        return tuple(replace(event, noise_multiplier=2 * event.noise_multiplier) for event in events)

    return around(DpSgdLearner, "fit", faulty)


def a_step_less_an_epoch():
    def faulty(original, records, batch_size):
        rate, steps = original(records, batch_size)
        return rate, steps - 1

    return around(dpsgd, "poisson_plan", faulty)


def a_step_more_an_epoch():
    def faulty(original, records, batch_size):
        rate, steps = original(records, batch_size)
        return rate, steps + 1

    return around(dpsgd, "poisson_plan", faulty)


def a_budget_that_is_ignored():
    return around(
        DpSgdLearner, "fit", lambda original, *given, most_steps, **named: original(*given, most_steps=None, **named)
    )


def seeded_noise_of_owners():
    return around(dpsgd, "noise_from", lambda original, source, rng: original("seeded", rng))


def seeded_noise_in_sums():
    return around(shares, "noise_from", lambda original, source, rng: original("seeded", rng))


def seeded_samples():
    def faulty(original, records, rate, steps, source, rng):
        return original(records, rate, steps, "seeded", rng)

    return around(dpsgd, "build_sampler", faulty)


class SaysSecure(SeededNoise):
    """Seeded noise under another name."""

    source = "secure"


def seeded_noise_that_says_secure():
    return around(dpsgd, "noise_from", lambda original, source, rng: SaysSecure(Randomness(1).numpy()))
