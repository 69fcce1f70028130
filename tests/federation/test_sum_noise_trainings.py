"""Trainings with noise in the sum: the accounts have all noise, and no party sees a sum with less."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ppml.accounting.schedule import mechanism_schedules
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.plaintext import PlaintextAggregation, from_plaintext, to_plaintext
from ppml.config.arm import Arm
from ppml.federation import distributed_dp as shares_module
from ppml.federation.distributed_dp import (
    CentralGaussian,
    rounded_gaussian,
)
from ppml.federation.messages import UPDATE, unpack_update
from ppml.randomness import Randomness

from ..learning.digits import Silent, blank, some, vector
from .parties import (
    CKKS,
    CODEC,
    Course,
    Federation,
    federated,
    parties,
    play,
    trained,
)
from .scanner import secret_holders, secret_key_in, updates_in
from .sum_noise import (
    BY_CLIENT,
    DISTRIBUTED,
    STEP,
    VALUES,
    sensitivity,
)

# Central noise.


def central_noise(noise: float = 1.5, source: str = "seeded") -> CentralGaussian:
    return CentralGaussian(noise, 0.2, VALUES, CODEC, source, Randomness(1))


def check_central_noise(mechanism: CentralGaussian) -> None:
    values = np.arange(VALUES)
    drawn = []
    for number in (1, 2):
        total, events = mechanism(to_plaintext(values, "<i4"), number)
        assert (total.scheme, total.length, len(total.payload)) == ("plaintext", VALUES, 8 * VALUES)
        (event,) = events
        assert (event.sample_rate, event.steps, event.max_grad_norm) == (1.0, 1, 0.2)
        assert event.noise_multiplier == pytest.approx(1.5, rel=1e-12)
        noise = (from_plaintext(total) - values) * STEP / sensitivity(0.2, VALUES, 0.0)
        assert noise.std() == pytest.approx(1.5, rel=0.013)
        assert abs(noise.mean()) < 5 * 1.5 / math.sqrt(VALUES)
        drawn.append(noise)
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.018


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_central_noise_is_independent_over_rounds(source):
    check_central_noise(central_noise(source=source))


def half_central_noise(size, deviation, source, rng):
    return rounded_gaussian(size, deviation / 2, source, rng)


def same_in_each_round(size, deviation, source, rng):
    return rounded_gaussian(size, deviation, source, Randomness(1))


@pytest.mark.parametrize("fault", [half_central_noise, same_in_each_round])
def test_less_central_noise_is_detected(fault, monkeypatch):
    monkeypatch.setattr(shares_module, "rounded_gaussian", fault)
    with pytest.raises(AssertionError):
        check_central_noise(central_noise())


def test_central_noise_may_exceed_any_sum():
    mechanism = replace(central_noise(1e6), size=100)
    total, _ = mechanism(to_plaintext(np.zeros(100, np.int64), "<i4"), 1)
    assert np.abs(from_plaintext(total)).max() > 2**31


# Trainings.


def silent(arm: Arm, clients: int) -> Federation:
    """Return parties with examples without gradients."""
    return parties(arm, model=Silent(), owned=[blank(8)] * clients)


def with_recorded_updates(parts: Federation) -> tuple[Federation, list[Grid]]:
    """Return the same parties, and the list of the updates that clients protect, in order."""
    updates: list[Grid] = []

    class RecordingSide:
        def __init__(self, side) -> None:
            self.side = side

        def __getattr__(self, name):
            return getattr(self.side, name)

        def protect(self, update: Grid, *origin: int) -> ProtectedUpdate:
            updates.append(update)
            return self.side.protect(update, *origin)

    return replace(parts, pool=replace(parts.pool, side=RecordingSide(parts.pool.side))), updates


@pytest.mark.parametrize("clients", [2, 4, 8])
@pytest.mark.parametrize("kind", ["example", "client"])
def test_sum_has_the_accounted_noise_for_each_client(kind, clients):
    privacy = {**(DISTRIBUTED if kind == "example" else BY_CLIENT), "noise": "distributed"}
    arm = federated(privacy, CKKS, {"batch_size": 8}, rounds=1, weighting="uniform")
    parts, updates = with_recorded_updates(silent(arm, clients))
    course = play(parts)
    (total,) = course.sums
    assert np.array_equal(total, np.sum(updates, axis=0)), "to the grid point"
    unit = (sensitivity(0.1, VALUES) if kind == "example" else sensitivity(0.2, VALUES, 0.0)) / STEP
    assert total.std() / unit == pytest.approx(math.sqrt(clients / (clients - 1)), rel=0.013)
    for known in updates[:2]:
        assert (total - known).std() / unit == pytest.approx(1.0, rel=0.013)
    for state in course.states:
        (event,) = state.events
        assert event.noise_multiplier == pytest.approx(1.0, rel=1e-9)


def test_central_noise_is_in_the_model_and_in_every_account():
    arm = federated(BY_CLIENT, rounds=2, weighting="uniform")
    parts = silent(arm, 3)
    outcome = trained(parts)
    # The noise of two rounds, divided by three clients.
    moved = vector(outcome.models[0]).numpy().std()
    assert moved == pytest.approx(math.sqrt(2) * sensitivity(0.2, VALUES, 0.0) / 3, rel=0.013)
    for own in outcome.events:
        assert [(event.sample_rate, event.steps) for event in own] == [(1.0, 2)]
        assert own[0].noise_multiplier == pytest.approx(1.0, rel=1e-9)


def test_model_without_gradients_moves_by_the_noise():
    arm = federated(DISTRIBUTED, CKKS, {"batch_size": 8, "learning_rate_schedule": "constant"}, rounds=2)
    outcome = trained(silent(arm, 3))
    # A step of 0.1 along a sum divided by the expected batch size 8; three noise terms, two of honest clients.
    expected = math.sqrt(2) * 0.1 / 8 * math.sqrt(3 / 2) * sensitivity(0.1, VALUES)
    assert vector(outcome.models[0]).numpy().std() == pytest.approx(expected, rel=0.013)


LARGE = {**CKKS, "clip": 64.0, "scale_bits": 42}


@pytest.mark.parametrize("kind", ["example", "client", "server"])
def test_accounts_have_every_round(kind):
    privacy = (
        DISTRIBUTED if kind == "example" else {**BY_CLIENT, "noise": "distributed" if kind == "client" else "central"}
    )
    arm = federated(privacy, LARGE if kind != "server" else None, {"batch_size": 50}, weighting="uniform")
    sizes = [40, 25, 60]
    plan = mechanism_schedules(arm, sizes)[0]
    assert (plan.sample_rate, plan.steps) == ((50 / 125 if kind == "example" else 1.0), 3)
    for own, plan in zip(trained(parties(arm)).events, mechanism_schedules(arm, sizes), strict=True):
        assert [(event.sample_rate, event.steps) for event in own] == [(plan.sample_rate, plan.steps)]
        assert own[0].noise_multiplier == pytest.approx(1.0, rel=1e-9)


def test_training_with_distributed_noise_repeats_and_learns():
    arm = federated(
        {**DISTRIBUTED, "noise_multiplier": 0.2, "max_grad_norm": 1.0}, LARGE, {"batch_size": 125}, rounds=4
    )
    first, again = (trained(parties(arm)) for _ in range(2))
    assert torch.equal(vector(first.models[0]), vector(again.models[0]))
    assert first.history[-1].loss < math.log(10)


# Readability of updates.


def test_update_is_unreadable_without_the_key():
    parts, updates = with_recorded_updates(parties(federated(DISTRIBUTED, CKKS, {"batch_size": 50}, rounds=1)))
    course = play(parts)
    uploads = [
        unpack_update(message.content.array_records[UPDATE])
        for direction, message in course.messages
        if direction == "up" and UPDATE in message.content
    ]
    assert len(uploads) == len(updates) == 3
    side = parts.pool.side.side
    for upload, update in zip(uploads, updates, strict=True):
        assert np.array_equal(side.reveal(upload), update), "the key reveals the update"
        assert not updates_in([upload.payload], [update], STEP)
    assert not secret_key_in([upload.payload for upload in uploads], side)
    assert not secret_holders(parts.aggregator)


def test_plaintext_update_is_detected():
    update = rounded_gaussian(VALUES, 1e5, "seeded", Randomness(1)).values
    assert updates_in([PlaintextAggregation(CODEC, 3).protect(update).payload], [update], STEP)


# Dropouts.


def lost(*replies: tuple[int, int]):
    return lambda number, client: (number, client) in replies


def with_dropouts(max_dropouts: int, *replies: tuple[int, int]) -> Course:
    arm = federated({**DISTRIBUTED, "max_dropouts": max_dropouts}, LARGE, {"batch_size": 50}, rounds=2)
    parts = parties(arm, owned=[some(20, start=20 * client) for client in range(4)])
    return play(replace(parts, drops_reply=lost(*replies)))


def test_more_dropouts_than_max_dropouts_end_the_training():
    course = with_dropouts(1, (2, 0), (2, 3))
    assert course.added == [4], "the server does not add the second round"
    assert str(course.failure).startswith("round 2: 2 of 4 clients sent a valid update, 3 are needed; ")
    assert [end.server_state.number for end in course.ends] == [1]


def test_max_dropouts_are_tolerated():
    course = with_dropouts(1, (1, 0), (2, 3))
    assert course.added == [3, 3] and course.failure is None


def test_every_update_is_needed_without_dropouts():
    course = with_dropouts(0, (1, 2))
    assert course.added == [] and "3 of 4 clients sent a valid update, 4 are needed" in str(course.failure)


def test_min_clients_may_exceed_the_need_of_the_noise():
    arm = federated({**DISTRIBUTED, "max_dropouts": 2}, LARGE, {"batch_size": 50}, rounds=2, min_clients=4)
    assert parties(arm, owned=[some(20, start=20 * client) for client in range(4)]).settings.min_clients == 4
