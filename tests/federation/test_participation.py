"""Client sampling and dropouts: means, models, accounts and traffic match their formulas."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from flwr.app import MessageType

from ppml.accounting.schedule import mechanism_schedules
from ppml.aggregation_parameters import clients_per_round
from ppml.federation import client as client_module
from ppml.federation.checkpoint import TrainingCheckpoint
from ppml.federation.client_state import ClientState
from ppml.federation.factory import client_sampler, simulate_dropouts
from ppml.federation.messages import INITIAL, SUMS, unpack_request, unpack_sums
from ppml.learning.result import TrainingResult
from ppml.randomness import Randomness

from ..learning.digits import vector
from .parties import (
    PARAMETERS,
    PRIVATE,
    Course,
    Federation,
    MemoryStore,
    by_hand,
    federated,
    owners,
    parties,
    play,
    same_bits,
    trained,
    with_settings,
)
from .runs import bits

SIZES = (40, 25, 60, 30)
ROUNDS = 6


def four(arm, **others) -> Federation:
    return parties(arm, owned=owners(SIZES), **others)


# Client sampling.


@pytest.mark.parametrize(("clients", "fraction", "count"), [(10, 0.5, 5), (10, 0.01, 1), (3, 0.67, 2), (8, 0.3, 2)])
def test_sample_has_distinct_clients_in_order(clients, fraction, count):
    sample = client_sampler(clients, clients_per_round(fraction, clients), Randomness(1))
    for number in range(1, 50):
        drawn = list(sample(number))
        assert len(drawn) == count and drawn == sorted(set(drawn)) and set(drawn) <= set(range(clients))


def test_full_participation_selects_all_clients():
    assert list(client_sampler(5, 5, Randomness(1))(3)) == [0, 1, 2, 3, 4]


def test_samples_differ_by_round_and_repeat_by_seed():
    first, again, other = (
        [tuple(client_sampler(10, 5, Randomness(seed))(number)) for number in range(1, 401)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(set(first)) > 150, "252 sets of five are equally likely"
    # A client is in half of 400 samples, with a standard deviation of 10, and a pair of clients in 2 of 9 samples.
    selected = np.array([[client in drawn for client in range(10)] for drawn in first], dtype=float)
    assert np.abs(selected.sum(axis=0) - 200).max() < 50
    together = selected.T @ selected / 400
    assert np.abs(together[~np.eye(10, dtype=bool)] - 0.5 * 4 / 9).max() < 0.12


def test_server_sends_requests_to_sampled_clients_only():
    parts = four(federated(participation=0.5, rounds=ROUNDS))
    course = play(parts)
    assert course.selected() == {number: list(parts.settings.sample_clients(number)) for number in range(1, ROUNDS + 1)}
    assert len({tuple(drawn) for drawn in course.selected().values()}) > 2
    assert course.notices == [], "an unselected client is no dropout"
    assert [end.clients for end in course.ends] == [2] * ROUNDS


def check_models_match_the_formula(parts: Federation, course: Course, received) -> None:
    """Compare the model of each client with federated averaging over the clients with an update."""
    assert course.failure is None
    trail = by_hand(parts, received)
    for found, expected in zip(course.sums, trail.sums, strict=True):
        assert np.array_equal(found, expected)
    for state in course.states:
        assert same_bits(state.global_state.parameters, trail.parameters[max(state.applied, 0)])


def test_mean_is_over_sampled_clients():
    parts = four(federated(participation=0.5, rounds=ROUNDS))
    check_models_match_the_formula(parts, play(parts), parts.settings.sample_clients)


def test_mean_over_all_clients_is_detected():
    parts = four(federated(participation=0.5, rounds=ROUNDS))
    with pytest.raises(AssertionError):
        check_models_match_the_formula(parts, play(parts), lambda number: range(4))


# A client that missed rounds.


def test_client_that_missed_rounds_gets_the_missed_sums():
    # Client 1 is in the first and the last round, client 3 only in the last one.
    selected = {1: [0, 1, 2], 2: [0, 2], 3: [0], 4: [2], 5: [0, 2], 6: [0, 1, 2, 3]}
    parts = with_settings(four(federated(rounds=ROUNDS)), sample_clients=selected.__getitem__)
    course = play(parts)
    sent = {
        client: [list(unpack_sums(message.content.array_records[SUMS])) for message in course.requests(client)]
        for client in range(4)
    }
    # Client 0 has evaluated its rounds, client 2 the fourth, so that they already have the sums of these.
    assert sent == {
        0: [[], [], [], [4], []],
        1: [[], [1, 2, 3, 4, 5]],
        2: [[], [1], [2, 3], [], [5]],
        3: [[1, 2, 3, 4, 5]],
    }
    assert INITIAL in course.requests(3)[0].content
    assert [state.applied for state in course.states] == [6, 5, 5, 5]
    missed_none, *others = (state.global_state.parameters for state in course.states[1:])
    assert all(same_bits(missed_none, other) for other in others)
    check_models_match_the_formula(parts, course, selected.__getitem__)


def apply_last_sum_only(monkeypatch) -> None:
    """Let clients apply only the last of the missed sums."""
    monkeypatch.setattr(client_module, "unpack_sums", lambda record: dict(list(unpack_sums(record).items())[-1:]))


def apply_twice(monkeypatch) -> None:
    """Let clients apply the last sum again."""
    fast_forward = ClientState.fast_forward
    monkeypatch.setattr(ClientState, "fast_forward", lambda state, applied: fast_forward(state, max(0, applied - 1)))


@pytest.mark.parametrize("plant", [apply_last_sum_only, apply_twice])
def test_missed_sum_omitted_or_applied_twice_is_detected(monkeypatch, plant):
    selected = {1: [0, 1], 2: [0], 3: [0, 1], 4: [0, 1]}
    parts = with_settings(four(federated(rounds=4)), sample_clients=selected.__getitem__)
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_models_match_the_formula(parts, play(parts), selected.__getitem__)


# Dropouts.


def test_dropouts_have_the_stated_rate_and_repeat():
    lost, again = (
        np.array([[simulate_dropouts(0.2, Randomness(1))(number, client) for client in range(4)] for number in every])
        for every in [range(1, 1001)] * 2
    )
    assert np.array_equal(lost, again)
    # 4,000 samples: the standard error is 0.006.
    assert lost.mean() == pytest.approx(0.2, abs=0.03)
    assert np.abs(np.corrcoef(lost.T) - np.eye(4)).max() < 0.15
    assert not any(simulate_dropouts(0.0, Randomness(1))(number, 0) for number in range(100))


def updates_received(parts: Federation):
    """Return a function from the round to the clients whose update the server gets."""
    return lambda number: [
        client for client in parts.settings.sample_clients(number) if not parts.drops_reply(number, client)
    ]


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_mean_is_over_received_updates(weighting):
    parts = four(federated(dropout_rate=0.3, rounds=ROUNDS, weighting=weighting))
    received, course = updates_received(parts), play(parts)
    count = [len(received(number)) for number in range(1, ROUNDS + 1)]
    assert [end.clients for end in course.ends] == count and min(count) < 4
    check_models_match_the_formula(parts, course, received)
    expected = [
        line
        for number in range(1, ROUNDS + 1)
        for line in [
            *(f"round {number}: client {one} did not reply" for one in range(4) if one not in received(number)),
            *([f"round {number} continues with {count[number - 1]} of 4 clients"] if count[number - 1] < 4 else []),
        ]
    ]
    assert course.notices == expected


ACCOUNTED = federated(PRIVATE, participation=0.75, dropout_rate=0.3, rounds=ROUNDS)


def check_accounts_have_executed_steps(course: Course) -> None:
    for client, (state, plan) in enumerate(zip(course.states, mechanism_schedules(ACCOUNTED, SIZES), strict=True)):
        rounds = sum(client in clients for clients in course.selected().values())
        (event,) = state.events
        assert event.steps == plan.steps // ROUNDS * rounds <= plan.steps
        assert (event.sample_rate, event.noise_multiplier) == (plan.sample_rate, 1.0)


def test_account_has_steps_of_dropped_replies():
    parts = four(ACCOUNTED)
    course = play(parts)
    requests = [(number, client) for number, clients in course.selected().items() for client in clients]
    assert len(requests) == 3 * ROUNDS and sum(parts.drops_reply(*one) for one in requests) > 1
    check_accounts_have_executed_steps(course)


def test_dropped_reply_spends_budget():
    parts = replace(
        parties(federated(PRIVATE, rounds=4), affordable_steps=[4, 100, 100]),
        drops_reply=lambda number, client: client == 0 and number < 3,
    )
    course = play(parts)
    assert sum(event.steps for event in course.states[0].events) == 4
    assert "round 3: client 0 has spent its privacy budget and trains no more" in course.notices


def test_account_without_dropped_replies_is_detected(monkeypatch):
    append, parts = ClientState.append_events, four(ACCOUNTED)
    requests = ((number, client) for number in range(1, ROUNDS + 1) for client in parts.settings.sample_clients(number))

    def forgetful(state: ClientState, events) -> None:
        if not parts.drops_reply(*next(requests)):
            append(state, events)

    monkeypatch.setattr(ClientState, "append_events", forgetful)
    with pytest.raises(AssertionError):
        check_accounts_have_executed_steps(play(parts))


# Traffic.


def bytes_by_hand(parts: Federation) -> tuple[int, int]:
    """Return the plaintext traffic in both directions, 4 bytes per value."""
    received, known = updates_received(parts), dict.fromkeys(range(4), -1)
    up = down = 0
    for number in range(1, parts.settings.rounds + 1):
        updates = received(number)
        for client in parts.settings.sample_clients(number):
            down += 4 * PARAMETERS if known[client] < 0 else 0
            down += 4 * parts.settings.update_length * (number - 1 - max(known[client], 0))
            if client in updates:
                up += 4 * parts.settings.update_length
                known[client] = number - 1
        # The first client with an update evaluates the model.
        down += 4 * parts.settings.update_length * (number - known[updates[0]])
        known[updates[0]] = number
    return up, down


@pytest.mark.parametrize(
    "topology",
    [{}, {"participation": 0.5}, {"dropout_rate": 0.3}, {"participation": 0.5, "dropout_rate": 0.2}],
    ids=["all", "sampling", "dropouts", "both"],
)
def test_traffic_counts_new_sums_of_each_client(topology):
    parts = four(federated(rounds=ROUNDS, **topology))
    outcome = trained(parts)
    assert (outcome.bytes_up, outcome.bytes_down) == bytes_by_hand(four(federated(rounds=ROUNDS, **topology)))


def test_control_variates_double_the_uploads():
    plain, corrected = (trained(four(federated(correction={"kind": kind}))) for kind in ("none", "scaffold"))
    assert corrected.bytes_up == plain.bytes_up + 3 * 4 * 4 * PARAMETERS


# Resuming, with sampling and dropouts.

TECHNIQUES = {
    "scaffold": federated(
        participation=0.5, dropout_rate=0.2, rounds=ROUNDS, correction={"kind": "scaffold"}, server={"kind": "adam"}
    ),
    "private": federated(
        PRIVATE, participation=0.5, dropout_rate=0.2, rounds=ROUNDS, server={"kind": "sgd", "momentum": 0.5}
    ),
}
SEED = 2


@cache
def uninterrupted(name: str) -> tuple[TrainingResult, MemoryStore]:
    memory = MemoryStore()
    return trained(four(TECHNIQUES[name], seed=SEED), checkpoint=memory), memory


def resumed(name: str, checkpoint: TrainingCheckpoint) -> tuple[TrainingResult, MemoryStore]:
    memory = MemoryStore(checkpoint)
    return trained(four(TECHNIQUES[name], seed=SEED), checkpoint=memory), memory


def check_same(name: str, found: tuple[TrainingResult, MemoryStore]) -> None:
    """Compare a resumed training and its checkpoints with the uninterrupted training."""
    (outcome, memory), (expected, whole) = found, uninterrupted(name)
    (model,), (other,) = outcome.models, expected.models
    assert same_bits(vector(model).numpy(), vector(other).numpy())
    assert (outcome.history, outcome.events) == (expected.history, expected.events)
    assert (outcome.bytes_up, outcome.bytes_down) == (expected.bytes_up, expected.bytes_down)
    assert bits(memory.after) == {number: bits(whole.after[number]) for number in memory.after}


def test_resumed_trainings_have_dropouts_and_missed_rounds():
    for name, arm in TECHNIQUES.items():
        parts = four(arm, seed=SEED)
        received = updates_received(parts)
        lost = sum(2 - len(received(number)) for number in range(1, ROUNDS + 1))
        known = uninterrupted(name)[1].after[ROUNDS - 1].server_state.known
        assert lost and len(set(known.values())) > 1, "there are dropouts and missed rounds"


@pytest.mark.parametrize("last", range(1, ROUNDS + 1))
@pytest.mark.parametrize("name", TECHNIQUES)
def test_resumed_training_with_sampling_has_the_same_result(name, last):
    found = resumed(name, uninterrupted(name)[1].after[last])
    assert list(found[1].after) == list(range(last + 1, ROUNDS + 1))
    check_same(name, found)


FAULTS = {
    "known": lambda kept: {"known": dict.fromkeys(kept.known, kept.number)},
    "bytes of a sum": lambda kept: {"sum_bytes": {**kept.sum_bytes, kept.number: 0}},
    "a sum": lambda kept: {"sum_bytes": {kept.number: kept.sum_bytes[1]}},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_lost_server_state_is_detected(fault):
    checkpoint = uninterrupted("scaffold")[1].after[3]
    changed = replace(checkpoint.server_state, **fault(checkpoint.server_state))
    with pytest.raises(AssertionError):
        check_same("scaffold", resumed("scaffold", replace(checkpoint, server_state=changed)))


def test_requests_name_the_round_before_their_first_sum():
    parts = four(federated(participation=0.5, dropout_rate=0.2, rounds=ROUNDS))
    course = play(parts)
    for client in range(4):
        for kind in (MessageType.TRAIN, MessageType.EVALUATE):
            for message in course.requests(client, kind):
                request, sums = unpack_request(message.content), list(unpack_sums(message.content.array_records[SUMS]))
                last = request.number - (kind == MessageType.TRAIN)
                assert sums == list(range(request.base_round + 1, last + 1))
