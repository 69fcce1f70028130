"""The server reports and ignores an invalid reply; the sum has the bits of the other updates."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from ppml.aggregation.ckks import scheme_of
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.config.technique import Ckks
from ppml.federation.client_state import ClientState
from ppml.federation.messages import (
    INITIAL,
    METRICS,
    PROTECTED,
    STATUS,
    SUMS,
    UPDATE,
    RoundRequest,
    Status,
    pack_fields,
    pack_update,
    unpack_request,
    unpack_sums,
    unpack_update,
)
from ppml.federation.server_state import RoundFailed
from ppml.learning.learner import TrainingDiverged

from ..aggregation.local import Local
from ..fuzz.mutations import claiming_to_be_compressed, stream_with
from .parties import (
    CKKS,
    CODEC,
    PARAMETERS,
    PRIVATE,
    Course,
    Fault,
    MemoryStore,
    Trail,
    Wire,
    by_hand,
    failed,
    faulty,
    federated,
    parties,
    play,
    same_bits,
    trained,
    with_fault,
    with_learner,
    with_record,
    with_records,
    with_settings,
    with_status,
)

VALUES = PARAMETERS + 1
LARGEST = 8 * 2**20
PLAIN = PlaintextAggregation(CODEC, 3)


def all_but_client_1_in_round_2(number: int) -> Iterable[int]:
    """Return all clients, but without client 1 in round 2."""
    return (0, 2) if number == 2 else (0, 1, 2)


def all_clients(number: int) -> Iterable[int]:
    """Return all three clients."""
    return range(3)


@cache
def expected_trail(received: Callable[[int], Iterable[int]]) -> Trail:
    """Return the result by the formula."""
    return by_hand(parties(federated()), received)


def check_others_continue(course: Course, received: Callable[[int], Iterable[int]]) -> None:
    """Compare sums and models with federated averaging over the clients with an update."""
    assert course.failure is None
    trail = expected_trail(received)
    assert course.added == [end.clients for end in course.ends] == [len(list(received(number))) for number in (1, 2, 3)]
    for found, expected in zip(course.sums, trail.sums, strict=True):
        assert np.array_equal(found, expected), "updates and weights, to the grid point"
    for state in course.states:
        # All three clients are in the last round and have the earlier sums; the evaluating client also has the last.
        assert state.applied in (2, 3)
        assert same_bits(state.global_state.parameters, trail.parameters[state.applied])


def check_one_reply_is_ignored(course: Course, reason: str) -> None:
    """Check for one notice with client, round and ``reason``, and for the sum of the other updates."""
    notice, continued = course.notices
    assert notice.startswith(f"round 2: client 1: {reason}") and notice.endswith("; its reply is ignored")
    assert "\n" not in notice
    assert continued == "round 2 continues with 2 of 3 clients"
    check_others_continue(course, all_but_client_1_in_round_2)


# Invalid replies.


def with_update(change: Callable[[ProtectedUpdate], ProtectedUpdate]) -> Fault:
    """Return a fault: another update."""

    def fault(message: Message, reply: Message) -> list[Message]:
        update = change(unpack_update(reply.content.array_records[UPDATE]))
        return [with_records(message, reply, **{UPDATE: pack_update(update)})]

    return fault


def with_value(place: int, value: int, dtype: str = "<i8") -> Fault:
    """Return a fault: another value in the update."""

    def change(update: ProtectedUpdate) -> ProtectedUpdate:
        values = PLAIN.reveal(update)
        values[place] = value
        return ProtectedUpdate("plaintext", len(values), values.astype(dtype).tobytes())

    return with_update(change)


def shortened(update: ProtectedUpdate, missing: int) -> ProtectedUpdate:
    return replace(update, payload=update.payload[:-missing])


BAD_REPLIES = {
    "an error": (failed, "the client failed: out of memory round 2: client 0: a line of another"),
    "one value more": (
        with_update(lambda _: PLAIN.protect(np.zeros(VALUES + 1, np.int64))),
        "its update has 7852 values",
    ),
    "one value less": (
        with_update(lambda _: PLAIN.protect(np.zeros(VALUES - 1, np.int64))),
        "its update has 7850 values",
    ),
    "one byte less": (with_update(partial(shortened, missing=1)), "31403 bytes for 7851 values of 4 or 8 bytes each"),
    "one value cut off": (with_update(partial(shortened, missing=4)), "31400 bytes for 7851 values of 4 or 8 bytes "),
    "no payload": (with_update(lambda update: replace(update, payload=b"")), "0 bytes for 7851 values of 4 or 8 "),
    "a value beyond the clip": (with_value(17, LARGEST + 1), "a value exceeds the clipping bound of updates"),
    "a value below the clip": (with_value(17, -LARGEST - 1, "<i4"), "a value exceeds the clipping bound of updates"),
    "a weight beyond the clip": (with_value(-1, 2**31 - 1, "<i4"), "a value exceeds the clipping bound of updates"),
    "the lowest 64-bit value": (with_value(17, -(2**63)), "a value exceeds the clipping bound of updates"),
    "another round": (with_status(number=1), "its reply is for round 1"),
    "a later round": (with_status(number=3), "its reply is for round 3"),
    "another client": (with_status(client=2), "its reply names client 2"),
    "no update": (with_record(update=None), "its reply has no update"),
    "no status": (with_record(status=None), "its reply names no client and no round"),
    "half a status": (
        with_record(status=ConfigRecord({"client": 1, "number": 2})),
        "its reply names no client and no round",
    ),
    # Malformed records.
    "an update without values": (with_record(update=ArrayRecord({})), ""),
    "an update without an array": (with_record(update=ConfigRecord({PROTECTED: 1})), ""),
    "an update without a shape": (
        with_record(update=ArrayRecord({PROTECTED: Array(dtype="bytes", shape=(), stype="ppml.plaintext", data=b"")})),
        "",
    ),
    "a status of another type": (with_record(status=ArrayRecord({})), ""),
    "a status in words": (
        with_record(status=ConfigRecord({"client": "one", "number": "two", "applied": "three", "finished": "four"})),
        "",
    ),
    "a status with one word": (
        with_record(status=ConfigRecord({"client": 1, "number": 2, "applied": "1", "finished": 0})),
        "",
    ),
    "a status with a list": (
        with_record(status=ConfigRecord({"client": 1, "number": 2, "applied": [1], "finished": 0})),
        "",
    ),
}


@pytest.mark.parametrize(("fault", "reason"), BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_invalid_reply_is_reported_and_ignored(fault, reason):
    check_one_reply_is_ignored(play(parties(federated()), with_fault(1, 2, fault)), reason)


class ReplacedInRound2:
    """A learner that is replaced by a function in round 2."""

    def __init__(self, learner, instead) -> None:
        self._learner, self._instead = learner, instead

    def fit(self, model, records, *, rng, **others):
        if rng.path[:2] == ("round", 2):
            return self._instead(model)
        return self._learner.fit(model, records, rng=rng, **others)


def full_disk(model):
    raise OSError(errno.ENOSPC, "disk full", "/home/a/records")


def diverging(model):
    raise TrainingDiverged("the loss is nan")


def interrupted(model):
    raise KeyboardInterrupt


def filled(value: float):
    def fill(model):
        with torch.no_grad():
            next(model.parameters())[0, 0] = value
        return ()

    return fill


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        (full_disk, "the client failed: OSError: disk full"),
        (diverging, "the client failed: client 1, round 2: the loss is nan"),
        (filled(torch.nan), "the client failed: client 1, round 2: the weights are not finite"),
        (filled(-torch.inf), "the client failed: client 1, round 2: the weights are not finite"),
    ],
    ids=["raises", "diverges", "nan", "infinity"],
)
@pytest.mark.parametrize("aggregation", [None, CKKS], ids=["plaintext", "ckks"])
def test_failed_client_is_reported_and_ignored(instead, reason, aggregation):
    parts = with_learner(parties(federated(aggregation=aggregation)), 1, lambda one: ReplacedInRound2(one, instead))
    check_one_reply_is_ignored(play(parts), reason)


def test_keyboard_interrupt_stops_the_training():
    with pytest.raises(KeyboardInterrupt):
        play(with_learner(parties(federated()), 1, lambda one: ReplacedInRound2(one, interrupted)))


def of_ciphertexts(change: Callable[[list[bytes]], list[bytes]]) -> Fault:
    """Return a fault: other ciphertexts, with a valid checksum."""

    def changed(update: ProtectedUpdate) -> ProtectedUpdate:
        scheme, key, header = scheme_of(Ckks()), update.payload[:16], update.payload[32:44]
        chunks = change([bytes(chunk) for chunk in scheme.ciphertexts(update, key)])
        return scheme.pack(key, update.length, chunks, header)

    return with_update(changed)


BAD_CIPHERTEXTS = {
    "cut off": (with_update(partial(shortened, missing=1)), "the upload was truncated or altered"),
    "extra bytes": (
        with_update(lambda update: replace(update, payload=update.payload + b"ab")),
        "the upload was truncated or altered",
    ),
    "under another key": (
        with_update(lambda update: Local(Ckks(), 3).protect(np.zeros(update.length, np.int64))),
        "the upload is under another key than that of this run",
    ),
    "one less": (of_ciphertexts(lambda parts: parts[:-1]), "1 ciphertexts, expected 2"),
    "one more": (of_ciphertexts(lambda parts: [*parts, parts[0]]), "185"),
    "other bytes": (of_ciphertexts(lambda parts: [bytes(len(part)) for part in parts]), ""),
    "no ciphertext": (of_ciphertexts(lambda parts: [*parts[:-1], b"none"]), ""),
    "another form": (
        of_ciphertexts(lambda parts: [stream_with(parts[0], 32, b"\x00"), *parts[1:]]),
        "a ciphertext that is not fresh",
    ),
    "no polynomial": (
        of_ciphertexts(lambda parts: [stream_with(parts[0], 33, bytes(8)), *parts[1:]]),
        "a ciphertext that is not fresh",
    ),
    "a stream that would crash its reader": (
        of_ciphertexts(lambda parts: [claiming_to_be_compressed(parts[0]), *parts[1:]]),
        "a ciphertext of 43755 bytes, not 65633 or 32946",
    ),
    "a long one": (with_update(lambda update: replace(update, payload=update.payload * 100)), "12"),
}


@pytest.mark.parametrize(("fault", "reason"), BAD_CIPHERTEXTS.values(), ids=BAD_CIPHERTEXTS)
def test_invalid_ciphertext_is_reported_and_ignored(fault, reason):
    check_one_reply_is_ignored(play(parties(federated(aggregation=CKKS)), with_fault(1, 2, fault)), reason)


def test_missing_reply_is_reported_and_its_client_applies_a_repeated_sum_once():
    course = play(parties(federated()), with_fault(1, 2, lambda message, reply: []))
    assert course.notices == ["round 2: client 1 did not reply", "round 2 continues with 2 of 3 clients"]
    # The server does not know that the client has the first sum, and sends it again.
    assert [list(unpack_sums(one.content.array_records[SUMS])) for one in course.requests(1)] == [[], [1], [1, 2]]
    check_others_continue(course, all_but_client_1_in_round_2)


def test_second_reply_is_ignored():
    course = play(
        parties(federated()), with_fault(1, 2, lambda message, reply: [reply, *failed(message, reply), reply])
    )
    assert course.notices == ["round 2: client 1 replied twice; the second reply is ignored"] * 2
    check_others_continue(course, all_clients)


def test_reply_of_an_unknown_node_is_ignored():
    def foreign(message: Message, reply: Message) -> list[Message]:
        return [Message(RecordDict(reply.content), reply_to=Message(RecordDict(), 99, MessageType.TRAIN)), reply]

    course = play(parties(federated()), with_fault(1, 2, foreign))
    assert course.notices == ["round 2: node 99 sent a reply without a request; it is ignored"]
    check_others_continue(course, all_clients)


def test_reply_of_an_unselected_client_is_ignored():
    parts = with_settings(parties(federated()), sample_clients=lambda number: [0, 2] if number == 2 else [0, 1, 2])

    def foreign(message: Message, reply: Message) -> list[Message]:
        content = {**reply.content, STATUS: pack_fields(Status(1, 2, 1))}
        return [reply, Message(RecordDict(content), reply_to=Message(RecordDict(), 3, MessageType.TRAIN))]

    course = play(parts, with_fault(0, 2, foreign))
    assert course.notices == ["round 2: node 3 sent a reply without a request; it is ignored"]
    check_others_continue(course, all_but_client_1_in_round_2)


def test_wrong_update_in_the_sum_is_detected():
    def doubled(update: ProtectedUpdate) -> ProtectedUpdate:
        return PLAIN.protect(2 * PLAIN.reveal(update))

    course = play(parties(federated()), with_fault(1, 2, with_update(doubled)))
    assert course.notices == []
    with pytest.raises(AssertionError, match="to the grid point"):
        check_others_continue(course, all_clients)


# A client that has lost its state.


class Forgets(Wire):
    """Client 1 loses its state before its second request."""

    def before(self, message: Message) -> None:
        trains = message.metadata.message_type == MessageType.TRAIN and message.metadata.dst_node_id == 3
        if trains and unpack_request(message.content).number == 2:
            self.contexts()[3].state.clear()


@pytest.mark.parametrize("aggregation", [None, CKKS], ids=["plaintext", "ckks"])
def test_client_without_state_gets_all_sums_again(aggregation):
    course = play(parties(federated(aggregation=aggregation)), Forgets)
    check_one_reply_is_ignored(course, "the client has lost its state and starts again in the next round")
    sent = [message.content for message in course.requests(1)]
    assert [unpack_request(content) for content in sent] == [
        RoundRequest(1, 0),
        RoundRequest(2, 0, 1),
        RoundRequest(3, 0, 1),
    ]
    assert [INITIAL in content for content in sent] == [True, False, True]
    assert [list(unpack_sums(content.array_records[SUMS])) for content in sent] == [[], [1], [1, 2]]


def test_client_with_an_impossible_round_catches_up():
    course = play(parties(federated(rounds=4)), with_fault(1, 1, with_status(applied=2)))
    assert course.notices == [
        "round 1: client 1: the client claims to have applied the sum of round 2, which does not exist; "
        "its reply is ignored",
        "round 1 continues with 2 of 3 clients",
    ]
    assert course.added == [2, 3, 3, 3]
    trail = by_hand(parties(federated(rounds=4)), lambda number: (0, 2) if number == 1 else (0, 1, 2))
    assert all(same_bits(state.global_state.parameters, trail.parameters[state.applied]) for state in course.states)


# Sums that would reveal one update.


def play_with_one_update_in_round_2(aggregation: dict[str, object]) -> Course:
    """Return the course of a training with two dropouts of three in its second round."""
    return play(
        replace(
            parties(federated(aggregation=aggregation)), drops_reply=lambda number, client: number == 2 and client > 0
        )
    )


def check_sum_of_one_update_is_refused(course: Course) -> None:
    assert str(course.failure) == (
        "round 2: 1 of 3 clients sent a valid update, 2 are needed; earlier rounds stay valid"
    )
    assert [end.clients for end in course.ends] == [3] and len(course.sums) == 1


PROTECTIONS = [
    CKKS,
    {"kind": "bfv"},
    {"kind": "bfv", "keys": "shared"},
    {"kind": "secret_sharing"},
    {"kind": "masking", "threshold": 2},
]


@pytest.mark.parametrize("aggregation", PROTECTIONS, ids=str)
def test_protected_sum_has_at_least_two_updates(aggregation):
    check_sum_of_one_update_is_refused(play_with_one_update_in_round_2(aggregation))


@pytest.mark.parametrize("aggregation", PROTECTIONS[:3], ids=str)
def test_protected_sum_of_one_update_is_detected(aggregation, monkeypatch):
    monkeypatch.setattr("ppml.federation.factory._min_clients", lambda arm, clients: arm.topology.min_clients)
    with pytest.raises(AssertionError):
        check_sum_of_one_update_is_refused(play_with_one_update_in_round_2(aggregation))


def test_plaintext_sum_may_have_one_update():
    course = play_with_one_update_in_round_2({"kind": "plaintext"})
    assert course.failure is None and [end.clients for end in course.ends][:2] == [3, 1]


def test_training_ends_with_one_remaining_client():
    # Two, one and three steps per round: after round 2 only client 2 has budget.
    course = play(parties(federated(PRIVATE, {"kind": "bfv"}, rounds=9), affordable_steps=[4, 2, 7]))
    assert course.failure is None and [end.clients for end in course.ends] == [3, 3]
    assert course.notices[-1] == (
        "round 3: 1 clients still train, but a sum needs at least 2; the training ends after round 2"
    )


# Metrics of a client.

NO_METRICS = {
    "no record": None,
    "no loss": MetricRecord({"accuracy": 0.5}),
    "no accuracy": MetricRecord({"loss": 0.5}),
    "another record": ConfigRecord({"loss": 0.5, "accuracy": 0.5}),
    "lists": MetricRecord({"loss": [0.5], "accuracy": [0.5]}),
}


@cache
def uninterrupted() -> Course:
    return play(parties(federated()))


@pytest.mark.parametrize("record", NO_METRICS.values(), ids=NO_METRICS)
def test_invalid_metrics_are_replaced_by_the_same_ones_of_the_next_client(record):
    wire = faulty(with_record(**{METRICS: record}), MessageType.EVALUATE, 0)
    course = play(parties(federated()), wire)
    line = "client 0 did not evaluate the global model; the next client is asked"
    assert course.failure is None and course.notices == [f"round {number}: {line}" for number in (1, 2, 3)]
    assert [(end.loss, end.accuracy) for end in course.ends] == [
        (end.loss, end.accuracy) for end in uninterrupted().ends
    ]


def test_training_ends_without_metrics():
    wire = faulty(with_record(**{METRICS: None}), MessageType.EVALUATE, 0, 1, 2)
    course = play(parties(federated()), wire)
    assert str(course.failure) == "round 1: no client evaluated the global model"
    assert course.ends == []


# Client discovery.


def joined(client: int) -> Callable[..., Wire]:
    """Return a wire with one more node, which reports the number ``client``."""

    def wire_of(*given) -> Wire:
        wire = Wire(*given)
        wire.join(9, client)
        return wire

    return wire_of


@pytest.mark.parametrize(
    ("client", "line"),
    [
        (1, "node 9 reports that it is client 1, which is node 3; it is ignored"),
        (7, "node 9 reports that it is client 7, of 3; it is ignored"),
        (-1, "node 9 reports that it is client -1, of 3; it is ignored"),
    ],
)
def test_node_with_an_invalid_number_is_ignored(client, line):
    course = play(parties(federated()), joined(client))
    assert course.notices == [line]
    sent = [message.metadata for direction, message in course.messages if direction == "down"]
    assert [one.message_type for one in sent if one.dst_node_id == 9] == [MessageType.QUERY]
    assert course.states.pop().applied == -1
    check_others_continue(course, all_clients)


class Moves(Wire):
    """Client 1 loses its node after round 1 and reconnects on another, without its state.

    ``sent`` gets the node of each request to train.
    """

    def __init__(self, *given, sent: list[int]) -> None:
        super().__init__(*given)
        self._sent = sent
        self.join(9, 1)

    def get_node_ids(self):
        started = ClientState(self.contexts()[2].state).applied >= 1
        return [2, 4, 9] if started else [2, 3, 4]

    def before(self, message: Message) -> None:
        if message.metadata.message_type == MessageType.TRAIN:
            self._sent.append(message.metadata.dst_node_id)


def test_client_on_a_new_node_gets_all_sums_again():
    sent: list[int] = []
    course = play(parties(federated()), partial(Moves, sent=sent))
    assert course.notices == []
    assert sent[3:6] == [2, 9, 4], "in the order of the clients, not of their nodes"
    del course.states[1]
    check_others_continue(course, all_clients)


class Late(Wire):
    """Client 2 connects after a number of queries for nodes."""

    def __init__(self, *given, queries: int) -> None:
        super().__init__(*given)
        self._queries = queries

    def get_node_ids(self):
        self._queries -= 1
        return [2, 3] if self._queries >= 0 else [2, 3, 4]


def test_server_waits_for_clients_to_connect():
    parts = with_settings(parties(federated()), connect_timeout=30.0)
    course = play(parts, partial(Late, queries=2))
    assert course.notices == []
    check_others_continue(course, all_clients)


@pytest.mark.parametrize("aggregation", [None, {"kind": "masking", "threshold": 2}], ids=["plaintext", "masking"])
def test_late_client_joins_the_next_round(aggregation):
    course = play(parties(federated(aggregation=aggregation)), partial(Late, queries=1))
    assert course.notices == ["round 1: client 2 is not connected", "round 1 continues with 2 of 3 clients"]
    check_others_continue(course, lambda number: range(2 if number == 1 else 3))


@pytest.mark.parametrize("fault", [failed, with_record(status=None)], ids=["an error", "no status"])
def test_node_without_status_is_asked_again(fault):
    faults = [fault]

    def first(message: Message, reply: Message) -> list[Message]:
        return faults.pop()(message, reply) if faults else [reply]

    course = play(parties(federated()), faulty(first, MessageType.QUERY, 1))
    assert course.notices[0].startswith("node 3 does not report its status: ")
    assert course.notices[1:] == ["round 1: client 1 is not connected", "round 1 continues with 2 of 3 clients"]
    check_others_continue(course, lambda number: (0, 2) if number == 1 else range(3))


# Too few updates.


def lost_in(number: int, *clients: int):
    return lambda round_number, client: round_number == number and client in clients


def test_too_few_updates_end_the_training():
    whole, memory = MemoryStore(), MemoryStore()
    trained(parties(federated()), checkpoint=whole)
    parts = replace(parties(federated(min_clients=2)), drops_reply=lost_in(3, 0, 2))
    notices: list[str] = []
    with pytest.raises(RoundFailed, match=r"^round 3: 1 of 3 clients sent a valid update, 2 are needed; "):
        trained(parts, checkpoint=memory, notice=notices.append)
    assert notices == ["round 3: client 0 did not reply", "round 3: client 2 did not reply"]
    kept, expected = memory.checkpoint, whole.after[2]
    assert kept.number == 2 and kept.history == expected.history
    assert kept.server_state == expected.server_state
    assert same_bits(kept.global_state.parameters, expected.global_state.parameters)
    # With all clients, the resumed training has the same result.
    outcome = trained(parties(federated(min_clients=2)), checkpoint=memory)
    assert len(outcome.history) == 3
    assert same_bits(memory.checkpoint.global_state.parameters, whole.checkpoint.global_state.parameters)


def test_min_clients_updates_are_enough():
    course = play(replace(parties(federated(min_clients=2)), drops_reply=lost_in(2, 1)))
    check_others_continue(course, all_but_client_1_in_round_2)


def test_round_without_updates_ends_the_training():
    course = play(replace(parties(federated()), drops_reply=lost_in(1, 0, 1, 2)))
    assert str(course.failure).startswith("round 1: 0 of 3 clients sent a valid update, 1 are needed")
    assert course.ends == [] and course.added == []


# Budgets.


def test_client_with_spent_budget_trains_no_more():
    # Two, one and three steps per round.
    parts = parties(federated(PRIVATE, rounds=9), affordable_steps=[4, 2, 7])
    course = play(parts)
    assert course.notices == [
        "round 3: client 0 has spent its privacy budget and trains no more",
        "round 3: client 1 has spent its privacy budget and trains no more",
        "round 3 continues with 1 of 3 clients",
        "round 4: client 2 has spent its privacy budget and trains no more",
        "round 4: no client trains any more; the training ends after round 3",
    ]
    assert course.failure is None
    assert [(end.server_state.number, end.clients) for end in course.ends] == [(1, 3), (2, 3), (3, 1)]
    assert [sum(event.steps for event in state.events) for state in course.states] == [4, 2, 7]
    assert course.selected() == {1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1, 2], 4: [2]}


def test_resumed_training_without_budget_ends_at_once():
    parts = parties(federated(PRIVATE, rounds=9), affordable_steps=[4, 2, 7])
    memory = MemoryStore()
    first = trained(parts, checkpoint=memory)
    notices: list[str] = []
    assert memory.checkpoint.server_state.finished == (0, 1)
    again = trained(
        parties(federated(PRIVATE, rounds=9), affordable_steps=[4, 2, 7]), checkpoint=memory, notice=notices.append
    )
    assert notices[-1] == "round 4: no client trains any more; the training ends after round 3"
    assert (again.history, again.events) == (first.history, first.events)
