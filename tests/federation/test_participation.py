"""Clients that are not asked, or whose answers get lost: means, models, accounts and bytes are those by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from flwr.app import MessageType

from ppml.accounting.schedule import mechanism_schedules
from ppml.config.aggregation_parameters import clients_per_round
from ppml.federation import client as client_module
from ppml.federation.checkpoint import TrainingCheckpoint
from ppml.federation.client_state import ClientState
from ppml.federation.factory import sample_clients, simulate_dropouts
from ppml.federation.messages import INITIAL, SUMS, unpack_request, unpack_sums
from ppml.learning.result import TrainingResult
from ppml.randomness import Randomness

from ..learning.digits import vector
from .parties import (
    PARAMETERS,
    PRIVATE,
    Course,
    Federation,
    Memory,
    by_hand,
    federated,
    owners,
    parties,
    play,
    same_bits,
    trained,
    with_plan,
)

SIZES = (40, 25, 60, 30)
ROUNDS = 6


def four(arm, **others) -> Federation:
    return parties(arm, owned=owners(SIZES), **others)


# Who is asked.


@pytest.mark.parametrize(("clients", "share", "count"), [(10, 0.5, 5), (10, 0.01, 1), (3, 0.67, 2), (8, 0.3, 2)])
def test_so_many_are_asked_each_once_and_in_order(clients, share, count):
    asked = sample_clients(clients, clients_per_round(share, clients), Randomness(1))
    for number in range(1, 50):
        drawn = list(asked(number))
        assert len(drawn) == count and drawn == sorted(set(drawn)) and set(drawn) <= set(range(clients))


def test_all_are_asked_where_the_share_is_1():
    assert list(sample_clients(5, 5, Randomness(1))(3)) == [0, 1, 2, 3, 4]


def test_who_is_asked_is_drawn_anew_for_each_round_and_the_same_in_every_run():
    first, again, other = (
        [tuple(sample_clients(10, 5, Randomness(seed))(number)) for number in range(1, 401)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(set(first)) > 150, "252 sets of five are equally likely"
    # Each is asked in half of 400 rounds, give or take 10, and each pair in 2 of 9 more often than by itself.
    asked = np.array([[client in drawn for client in range(10)] for drawn in first], dtype=float)
    assert np.abs(asked.sum(axis=0) - 200).max() < 50
    together = asked.T @ asked / 400
    assert np.abs(together[~np.eye(10, dtype=bool)] - 0.5 * 4 / 9).max() < 0.12


def test_the_server_asks_those_who_are_drawn_and_nobody_else():
    parts = four(federated(participation=0.5, rounds=ROUNDS))
    course = play(parts)
    assert course.asked() == {number: list(parts.plan.sample_clients(number)) for number in range(1, ROUNDS + 1)}
    assert len({tuple(drawn) for drawn in course.asked().values()}) > 2
    assert course.notices == [], "who is not asked has not failed"
    assert [end.clients for end in course.ends] == [2] * ROUNDS


def check_models_are_those_by_hand(parts: Federation, course: Course, answered) -> None:
    """Compare each client, wherever it is, with federated averaging by hand over those who ``answered``."""
    assert course.failure is None
    trail = by_hand(parts, answered)
    for found, expected in zip(course.sums, trail.sums, strict=True):
        assert np.array_equal(found, expected)
    for state in course.states:
        assert same_bits(state.common.parameters, trail.parameters[max(state.applied, 0)])


def test_the_mean_is_that_of_those_who_were_asked():
    parts = four(federated(participation=0.5, rounds=ROUNDS))
    check_models_are_those_by_hand(parts, play(parts), parts.plan.sample_clients)


def test_a_mean_over_all_clients_is_told_from_that_over_those_who_were_asked():
    parts = four(federated(participation=0.5, rounds=ROUNDS))
    with pytest.raises(AssertionError):
        check_models_are_those_by_hand(parts, play(parts), lambda number: range(4))


# A client that missed rounds.


def test_a_client_that_missed_rounds_gets_the_sums_that_it_missed_and_holds_the_same_bits():
    # Client 1 is there in the first and the last round, client 3 in the last alone.
    there = {1: [0, 1, 2], 2: [0, 2], 3: [0], 4: [2], 5: [0, 2], 6: [0, 1, 2, 3]}
    parts = with_plan(four(federated(rounds=ROUNDS)), sample_clients=there.__getitem__)
    course = play(parts)
    told = {
        client: [list(unpack_sums(message.content.array_records[SUMS])) for message in course.told(client)]
        for client in range(4)
    }
    # Client 0 has measured the rounds that it answered, client 2 the fourth, and has the sums of these already.
    assert told == {
        0: [[], [], [], [4], []],
        1: [[], [1, 2, 3, 4, 5]],
        2: [[], [1], [2, 3], [], [5]],
        3: [[1, 2, 3, 4, 5]],
    }
    assert INITIAL in course.told(3)[0].content
    assert [state.applied for state in course.states] == [6, 5, 5, 5]
    missed_none, *others = (state.common.parameters for state in course.states[1:])
    assert all(same_bits(missed_none, other) for other in others)
    check_models_are_those_by_hand(parts, course, there.__getitem__)


def left_out(monkeypatch) -> None:
    """Let clients see the last of the sums that they missed, and no other."""
    monkeypatch.setattr(client_module, "unpack_sums", lambda record: dict(list(unpack_sums(record).items())[-1:]))


def twice(monkeypatch) -> None:
    """Let clients forget that they have the last sum."""
    skip = ClientState.skip_to
    monkeypatch.setattr(ClientState, "skip_to", lambda state, applied: skip(state, max(0, applied - 1)))


@pytest.mark.parametrize("plant", [left_out, twice])
def test_a_missed_sum_that_is_left_out_or_applied_twice_is_caught(monkeypatch, plant):
    there = {1: [0, 1], 2: [0], 3: [0, 1], 4: [0, 1]}
    parts = with_plan(four(federated(rounds=4)), sample_clients=there.__getitem__)
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_models_are_those_by_hand(parts, play(parts), there.__getitem__)


# Answers that get lost.


def test_answers_get_lost_as_often_as_stated_each_for_itself_and_the_same_in_every_run():
    lost, again = (
        np.array([[simulate_dropouts(0.2, Randomness(1))(number, client) for client in range(4)] for number in every])
        for every in [range(1, 1001)] * 2
    )
    assert np.array_equal(lost, again)
    # 4,000 draws: the standard error is 0.006.
    assert lost.mean() == pytest.approx(0.2, abs=0.03)
    assert np.abs(np.corrcoef(lost.T) - np.eye(4)).max() < 0.15
    assert not any(simulate_dropouts(0.0, Randomness(1))(number, 0) for number in range(100))


def answered_of(parts: Federation):
    """Return whose answers come, by round."""
    return lambda number: [client for client in parts.plan.sample_clients(number) if not parts.drops_reply(number, client)]


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_the_mean_is_that_of_those_whose_answer_came(weighting):
    parts = four(federated(dropout_rate=0.3, rounds=ROUNDS, weighting=weighting))
    answered, course = answered_of(parts), play(parts)
    count = [len(answered(number)) for number in range(1, ROUNDS + 1)]
    assert [end.clients for end in course.ends] == count and min(count) < 4
    check_models_are_those_by_hand(parts, course, answered)
    expected = [
        line
        for number in range(1, ROUNDS + 1)
        for line in [
            *(f"round {number}: client {one} did not answer" for one in range(4) if one not in answered(number)),
            *([f"round {number} goes on with {count[number - 1]} of 4 clients"] if count[number - 1] < 4 else []),
        ]
    ]
    assert course.notices == expected


ACCOUNTED = federated(PRIVATE, participation=0.75, dropout_rate=0.3, rounds=ROUNDS)


def check_accounts_have_what_ran(course: Course) -> None:
    for client, (state, plan) in enumerate(zip(course.states, mechanism_schedules(ACCOUNTED, SIZES), strict=True)):
        turns = sum(client in clients for clients in course.asked().values())
        (event,) = state.events
        assert event.steps == plan.steps // ROUNDS * turns <= plan.steps
        assert (event.sample_rate, event.noise_multiplier) == (plan.sample_rate, 1.0)


def test_what_ran_counts_where_the_answer_was_lost_and_never_more_than_was_planned():
    parts = four(ACCOUNTED)
    course = play(parts)
    turns = [(number, client) for number, clients in course.asked().items() for client in clients]
    assert len(turns) == 3 * ROUNDS and sum(parts.drops_reply(*turn) for turn in turns) > 1
    check_accounts_have_what_ran(course)


def test_an_answer_that_was_lost_spends_of_the_budget():
    parts = replace(
        parties(federated(PRIVATE, rounds=4), budgets=[4, 100, 100]),
        drops_reply=lambda number, client: client == 0 and number < 3,
    )
    course = play(parts)
    assert sum(event.steps for event in course.states[0].events) == 4
    assert "round 3: client 0 has spent its privacy budget and trains no more" in course.notices


def test_an_account_that_forgets_lost_answers_is_caught(monkeypatch):
    remember, parts = ClientState.remember, four(ACCOUNTED)
    turns = ((number, client) for number in range(1, ROUNDS + 1) for client in parts.plan.sample_clients(number))

    def forgetful(state: ClientState, events) -> None:
        if not parts.drops_reply(*next(turns)):
            remember(state, events)

    monkeypatch.setattr(ClientState, "remember", forgetful)
    with pytest.raises(AssertionError):
        check_accounts_have_what_ran(play(parts))


# Bytes.


def bytes_by_hand(parts: Federation) -> tuple[int, int]:
    """Return what travels up and down in the clear, 4 bytes a value."""
    answered, known = answered_of(parts), dict.fromkeys(range(4), -1)
    up = down = 0
    for number in range(1, parts.plan.rounds + 1):
        came = answered(number)
        for client in parts.plan.sample_clients(number):
            down += 4 * PARAMETERS if known[client] < 0 else 0
            down += 4 * parts.plan.length * (number - 1 - max(known[client], 0))
            if client in came:
                up += 4 * parts.plan.length
                known[client] = number - 1
        # The first who answered measures.
        down += 4 * parts.plan.length * (number - known[came[0]])
        known[came[0]] = number
    return up, down


@pytest.mark.parametrize(
    "topology",
    [{}, {"participation": 0.5}, {"dropout_rate": 0.3}, {"participation": 0.5, "dropout_rate": 0.2}],
    ids=["all", "participation", "failures", "both"],
)
def test_bytes_are_those_of_what_each_client_had_not_seen(topology):
    parts = four(federated(rounds=ROUNDS, **topology))
    outcome = trained(parts)
    assert (outcome.bytes_up, outcome.bytes_down) == bytes_by_hand(four(federated(rounds=ROUNDS, **topology)))


def test_control_variates_double_what_travels():
    plain, corrected = (trained(four(federated(correction={"kind": kind}))) for kind in ("none", "scaffold"))
    assert corrected.bytes_up == plain.bytes_up + 3 * 4 * 4 * PARAMETERS


# Resuming, with all of it at once.

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
def undisturbed(name: str) -> tuple[TrainingResult, Memory]:
    memory = Memory()
    return trained(four(TECHNIQUES[name], seed=SEED), checkpoint=memory), memory


def resumed(name: str, progress: TrainingCheckpoint) -> tuple[TrainingResult, Memory]:
    memory = Memory(progress)
    return trained(four(TECHNIQUES[name], seed=SEED), checkpoint=memory), memory


def check_same(name: str, found: tuple[TrainingResult, Memory]) -> None:
    """Compare a resumed training, and everything that it kept on its way, with the one that nobody disturbed."""
    (outcome, memory), (expected, whole) = found, undisturbed(name)
    (model,), (other,) = outcome.models, expected.models
    assert same_bits(vector(model).numpy(), vector(other).numpy())
    assert (outcome.history, outcome.events) == (expected.history, expected.events)
    assert (outcome.bytes_up, outcome.bytes_down) == (expected.bytes_up, expected.bytes_down)
    for number, progress in memory.after.items():
        for one in fields(TrainingCheckpoint):
            assert identical(getattr(progress, one.name), getattr(whole.after[number], one.name)), one.name


def identical(one, other) -> bool:
    """Return whether two parts of a progress are the same, to the bit."""
    match one:
        case np.ndarray():
            return same_bits(one, other)
        case dict():
            return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
        case list() | tuple():
            return len(one) == len(other) and all(map(identical, one, other))
        case _ if hasattr(one, "memory"):
            return identical(vars(one), vars(other))
        case _:
            return one == other


def test_the_training_that_is_resumed_has_everything_in_it():
    for name, arm in TECHNIQUES.items():
        parts = four(arm, seed=SEED)
        answered = answered_of(parts)
        lost = sum(2 - len(answered(number)) for number in range(1, ROUNDS + 1))
        known = undisturbed(name)[1].after[ROUNDS - 1].server_state.known
        assert lost and len(set(known.values())) > 1, "answers get lost, and clients miss rounds"


@pytest.mark.parametrize("last", range(1, ROUNDS + 1))
@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_training_of_a_part_of_the_clients_that_is_resumed_ends_as_an_undisturbed_one(name, last):
    found = resumed(name, undisturbed(name)[1].after[last])
    assert list(found[1].after) == list(range(last + 1, ROUNDS + 1))
    check_same(name, found)


FAULTS = {
    "own": lambda progress: {"own": [{} for _ in progress.own]},
    "memory": lambda progress: {
        "common": replace(
            progress.common, memory={name: np.zeros_like(one) for name, one in progress.common.memory.items()}
        )
    },
    "known": lambda progress: {
        "standing": replace(progress.server_state, known=dict.fromkeys(progress.server_state.known, progress.number))
    },
    "bytes of a sum": lambda progress: {
        "standing": replace(progress.server_state, sum_bytes={**progress.server_state.sum_bytes, progress.number: 0})
    },
    "a sum": lambda progress: {
        "standing": replace(progress.server_state, sum_bytes={progress.number: progress.server_state.sum_bytes[1]})
    },
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_part_of_the_progress_that_is_lost_is_caught(fault):
    progress = undisturbed("scaffold")[1].after[3]
    with pytest.raises(AssertionError):
        check_same("scaffold", resumed("scaffold", replace(progress, **fault(progress))))


def test_events_that_are_lost_are_caught():
    progress = undisturbed("private")[1].after[3]
    with pytest.raises(AssertionError):
        check_same("private", resumed("private", replace(progress, events=[() for _ in progress.events])))


def test_the_orders_of_a_training_name_the_round_from_which_their_sums_begin():
    parts = four(federated(participation=0.5, dropout_rate=0.2, rounds=ROUNDS))
    course = play(parts)
    for client in range(4):
        for kind in (MessageType.TRAIN, MessageType.EVALUATE):
            for message in course.told(client, kind):
                order, sums = unpack_request(message.content), list(unpack_sums(message.content.array_records[SUMS]))
                last = order.number - (kind == MessageType.TRAIN)
                assert sums == list(range(order.begins + 1, last + 1))
