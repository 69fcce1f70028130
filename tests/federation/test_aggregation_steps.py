"""What a client says amiss in a step of the aggregation, or sends again: named, and left out; the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from flwr.app import Error, Message, MessageType

from ppml.aggregation.group import ELEMENT_BYTES, random_scalar
from ppml.aggregation.masking_clients import MaskingClients, MaskingState
from ppml.aggregation.masks import (
    DISPUTES,
    KEYS,
    PUBLIC_KEYS_BYTES,
    SHARE_MESSAGE_BYTES,
    SHARES,
    UNMASK,
    pack_entries,
    parse_shares_reply,
    unpack_entries,
)
from ppml.federation.messages import STEP, UPDATE, pack_step, unpack_request, unpack_step

from ..aggregation.letters import complaining, unreadable, with_other_shares
from .parties import CKKS, Course, FaultyWire, Wire, federated, parties, play, with_records, with_status
from .test_server import (
    Late,
    all_but_client_1_in_round_2,
    all_clients,
    check_one_reply_is_ignored,
    check_others_continue,
)

MASKING = {"kind": "masking", "threshold": 2}
SEALED_BY = {
    "ckks": CKKS,
    "bfv": {"kind": "bfv"},
    "bfv shared": {"kind": "bfv", "keys": "shared"},
    "shares": {"kind": "secret_sharing"},
    "masking": MASKING,
}
GOES_ON = "round 2 continues with 2 of 3 clients"
Fault = Callable[[Message, Message], list[Message]]


# Uploads of before, and of another.


class Swapped(FaultyWire):
    """In round 2, client 1 sends what ``client`` sent in round ``number``, and says that it is its own, of now."""

    def __init__(self, *given: Any, client: int, number: int) -> None:
        super().__init__(*given, after=self._swap)
        self._from, self._kept = (number, client), None

    def _swap(self, number: int, client: int, message: Message, reply: Message) -> list[Message]:
        if (number, client) == self._from:
            self._kept = reply.content[UPDATE]
        if (number, client) == (2, 1):
            return [with_records(message, reply, **{UPDATE: self._kept})]
        return [reply]


@pytest.mark.parametrize("aggregation", SEALED_BY.values(), ids=SEALED_BY)
@pytest.mark.parametrize(
    ("client", "number", "reason"),
    [(1, 1, "it was sealed in round 1"), (0, 2, "it was sealed by client 0")],
    ids=["of another round", "of another client"],
)
def test_replayed_upload_is_reported_and_ignored(aggregation, client, number, reason):
    course = play(parties(federated(aggregation=aggregation)), partial(Swapped, client=client, number=number))
    check_one_reply_is_ignored(course, reason)


def test_replayed_upload_in_the_sum_is_detected(monkeypatch):
    for module in ("lattice", "checksum"):
        monkeypatch.setattr(f"ppml.aggregation.{module}.refuse_origin", lambda said, client, number: None)
    course = play(parties(federated(aggregation=SEALED_BY["bfv"])), partial(Swapped, client=1, number=1))
    assert course.notices == []
    with pytest.raises(AssertionError, match="to the grid point"):
        check_others_continue(course, all_clients)


# Steps.


class InStep(Wire):
    """In round 2, what client 1 answers in ``step`` is what ``fault`` makes of it."""

    def __init__(self, *given: Any, step: str, fault: Fault) -> None:
        super().__init__(*given)
        self._step, self._fault = step, fault

    def after(self, message: Message, reply: Message) -> list[Message]:
        if message.metadata.message_type != f"{MessageType.QUERY}.{STEP}" or message.metadata.dst_node_id != 3:
            return [reply]
        if unpack_request(message.content).number != 2 or unpack_step(message.content)[0] != self._step:
            return [reply]
        return self._fault(message, reply)


def masked(step: str, fault: Fault) -> Course:
    return play(parties(federated(aggregation=MASKING)), partial(InStep, step=step, fault=fault))


def failed(message: Message, reply: Message) -> list[Message]:
    return [Message(Error(1, "out of memory\nround 2: client 0: a line of another"), reply_to=message)]


def saying(step: str, content: bytes) -> Fault:
    return lambda message, reply: [with_records(message, reply, **{STEP: pack_step(step, content)})]


def with_said(change: Callable[[bytes], bytes]) -> Fault:
    """Return a fault: something else made of what is said."""

    def fault(message: Message, reply: Message) -> list[Message]:
        step, content = unpack_step(reply.content)
        return saying(step, change(content))(message, reply)

    return fault


FAULTS: dict[str, tuple[Fault, str]] = {
    "an error": (failed, "it failed: out of memory round 2: client 0: a line of another"),
    "another round": (with_status(number=1), "its reply is for round 1"),
    "another client": (with_status(client=2), "its reply names client 2"),
    "another step": (saying("other", b""), "its reply is for step 'other'"),
    "nothing": (
        lambda message, reply: [with_records(message, reply, **{STEP: None})],
        "its reply cannot be read: 'step' is missing",
    ),
    "no status": (
        lambda message, reply: [with_records(message, reply, status=None)],
        "its reply names no client and no round",
    ),
}


@pytest.mark.parametrize("step", [KEYS, SHARES])
@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_client_with_an_invalid_step_reply_is_excluded(step, fault, reason):
    course = masked(step, fault)
    assert course.notices == [f"round 2: client 1: step {step!r}: {reason}", "round 2 continues with 2 of 3 clients"]
    check_others_continue(course, all_but_client_1_in_round_2)


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_client_with_an_invalid_unmask_reply_stays_in_the_sum(fault, reason):
    course = masked(UNMASK, fault)
    assert course.notices == [f"round 2: client 1: step 'unmask': {reason}"]
    check_others_continue(course, all_clients)


@pytest.mark.parametrize(
    ("step", "content", "reason"),
    [(KEYS, b"x", "what it sends are no keys"), (SHARES, b"x", "what was said about the masks cannot be read")],
)
def test_unreadable_step_reply_is_reported(step, content, reason):
    course = masked(step, saying(step, content))
    assert course.notices[0] == f"round 2: client 1: step {step!r}: {reason}"
    check_others_continue(course, all_but_client_1_in_round_2)


def test_missing_step_reply_is_reported():
    course = masked(SHARES, lambda message, reply: [])
    assert course.notices == ["round 2: client 1 did not reply", "round 2 continues with 2 of 3 clients"]
    check_others_continue(course, all_but_client_1_in_round_2)


def test_unconnected_client_is_reported_with_masking():
    course = play(parties(federated(aggregation=MASKING)), partial(Late, looks=1))
    assert course.notices == ["round 1: client 2 is not connected", "round 1 continues with 2 of 3 clients"]
    check_others_continue(course, lambda number: range(2 if number == 1 else 3))


def test_unmask_reply_for_an_earlier_round_is_refused():
    kept: list[bytes] = []

    def again(message: Message, reply: Message) -> list[Message]:
        return with_status(number=1)(message, saying(UNMASK, kept[0])(message, reply)[0])

    class Again(InStep):
        def after(self, message: Message, reply: Message) -> list[Message]:
            if STEP in reply.content and unpack_step(reply.content)[0] == UNMASK and not kept:
                kept.append(unpack_step(reply.content)[1])
            return super().after(message, reply)

    course = play(parties(federated(aggregation=MASKING)), partial(Again, step=UNMASK, fault=again))
    assert course.notices == ["round 2: client 1: step 'unmask': its reply is for round 1"]
    check_others_continue(course, all_clients)


def test_wrong_share_at_unmasking_changes_no_sum():
    def wrong(content: bytes) -> bytes:
        return pack_entries({client: bytes(ELEMENT_BYTES) for client in unpack_entries(content, ELEMENT_BYTES)})

    course = masked(UNMASK, with_said(wrong))
    (notice,) = course.notices
    assert notice.startswith("round 2: client 1: step 'unmask': it gives another share than client")
    check_others_continue(course, all_clients)


def play_with_faulty_clients(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[MaskingClients], None], *faults: Fault
) -> Course:
    """Return a training whose clients do in round 2 what ``spoil`` makes of them, and answer disputes by a fault."""
    begin = MaskingClients.__init__

    def made(self: MaskingClients, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        spoil(self)

    monkeypatch.setattr(MaskingClients, "__init__", made)
    wires = [partial(InStep, step=DISPUTES, fault=fault) for fault in faults]
    return play(parties(federated(aggregation=MASKING)), *wires)


@pytest.mark.parametrize("readers", [[0], [2], [0, 2]], ids=["one", "the other", "all"])
@pytest.mark.parametrize("shown", [b"x", b"", None], ids=["not readable", "nothing", "no answer"])
def test_client_with_unreadable_shares_is_excluded(readers, shown, monkeypatch):
    fault = (lambda message, reply: []) if shown is None else saying(DISPUTES, shown)
    course = play_with_faulty_clients(monkeypatch, partial(unreadable, readers_of={1: readers}, number=2), fault)
    assert course.failure is None and len(course.notices) == 2
    assert course.notices[0].startswith("round 2: client 1") and course.notices[1] == GOES_ON
    check_others_continue(course, all_but_client_1_in_round_2)


def test_client_with_unsigned_shares_is_excluded():
    def scrambled(content: bytes) -> bytes:
        own, letters = parse_shares_reply(content)
        return own + pack_entries({reader: bytes(SHARE_MESSAGE_BYTES) for reader in letters})

    course = masked(SHARES, with_said(scrambled))
    assert course.notices == [
        "round 2: client 1: step 'shares': its letter to client 0 does not have its signature, or is of other keys",
        GOES_ON,
    ]
    check_others_continue(course, all_but_client_1_in_round_2)


def dividing_badly(side: MaskingClients) -> None:
    """Have client 1 divide other secrets in round 2 than those whose points it has published."""
    honest = side._divide

    def divide(turn: MaskingState, client: int, publics: dict[int, bytes]) -> bytes:
        own = turn.own
        if (client, turn.number) == (1, 2):
            turn.own = random_scalar()
            turn.keys = lambda: publics[1][:PUBLIC_KEYS_BYTES]
        try:
            return honest(turn, client, publics)
        finally:
            turn.own = own

    side._divide = divide


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (dividing_badly, "step 'shares': the shares that it sends are not of the secrets that its keys are of"),
        (
            partial(with_other_shares, readers_of={1: [0, 2]}, shows=True, number=2),
            "step 'disputes': it shows other shares than it has sent to client 0",
        ),
    ],
    ids=["other secrets", "other shares, and the same shown"],
)
def test_client_with_inconsistent_shares_is_excluded(spoil, said, monkeypatch):
    course = play_with_faulty_clients(monkeypatch, spoil)
    assert course.notices == [f"round 2: client 1: {said}", GOES_ON]
    check_others_continue(course, all_but_client_1_in_round_2)


@pytest.mark.parametrize(
    "spoil",
    [
        partial(unreadable, readers_of={1: [0, 2]}, number=2),
        partial(with_other_shares, readers_of={1: [0, 2]}, shows=False, number=2),
        partial(complaining, reader=1, senders=[0], number=2),
        partial(complaining, reader=1, senders=[0, 2], number=2),
    ],
    ids=[
        "letters, and shares shown",
        "other shares, and the right ones shown",
        "complaint of one",
        "complaint of all_clients",
    ],
)
def test_settled_dispute_excludes_no_client(spoil, monkeypatch):
    course = play_with_faulty_clients(monkeypatch, spoil)
    steps = [unpack_step(sent.content)[0] for way, sent in course.messages if way == "down" and STEP in sent.content]
    assert DISPUTES in steps and course.notices == []
    check_others_continue(course, all_clients)
