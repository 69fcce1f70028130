"""What a client says amiss in a step of the aggregation, or sends again: named, and left out; the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from flwr.app import Error, Message, MessageType

from ppml.aggregation.group import ELEMENT_BYTES, random_scalar
from ppml.aggregation.masking_clients import MaskingClients, RoundContext
from ppml.aggregation.masks import (
    DISPUTES,
    KEYS,
    PUBLIC_KEYS_BYTES,
    ENCRYPTED_SHARES_BYTES,
    SHARES,
    UNMASK,
    pack_entries,
    parse_shares_reply,
    unpack_entries,
)
from ppml.federation.messages import STEP, UPDATE, pack_step, unpack_request, unpack_step

from ..aggregation.letters import complaining, unreadable, with_other_shares
from .parties import CKKS, Course, Meddled, Wire, federated, parties, play, with_records, with_status
from .test_server import Late, all_but_one, check_one_answer_is_left_out, check_the_others_go_on, everybody

MASKING = {"kind": "masking", "threshold": 2}
SEALED_BY = {
    "ckks": CKKS,
    "bfv": {"kind": "bfv"},
    "bfv shared": {"kind": "bfv", "keys": "shared"},
    "shares": {"kind": "secret_sharing"},
    "masking": MASKING,
}
GOES_ON = "round 2 goes on with 2 of 3 clients"
Fault = Callable[[Message, Message], list[Message]]


# Uploads of before, and of another.


class Swapped(Meddled):
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
def test_an_upload_that_is_sent_again_is_named_and_left_out(aggregation, client, number, reason):
    course = play(parties(federated(aggregation=aggregation)), partial(Swapped, client=client, number=number))
    check_one_answer_is_left_out(course, reason)


def test_one_that_is_added_is_caught(monkeypatch):
    for module in ("lattice", "checksum"):
        monkeypatch.setattr(f"ppml.aggregation.{module}.refuse_origin", lambda said, client, number: None)
    course = play(parties(federated(aggregation=SEALED_BY["bfv"])), partial(Swapped, client=1, number=1))
    assert course.notices == []
    with pytest.raises(AssertionError, match="to the grid point"):
        check_the_others_go_on(course, everybody)


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
    "another round": (with_status(number=1), "its answer is of round 1"),
    "another client": (with_status(client=2), "its answer says that it is client 2"),
    "another step": (saying("other", b""), "its answer is of step 'other'"),
    "nothing": (
        lambda message, reply: [with_records(message, reply, **{STEP: None})],
        "its answer cannot be read: 'step' is missing",
    ),
    "no status": (
        lambda message, reply: [with_records(message, reply, status=None)],
        "its answer does not say who it is of and which round it is of",
    ),
}


@pytest.mark.parametrize("step", [KEYS, SHARES])
@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_who_answers_a_step_amiss_is_named_and_takes_no_part_in_the_round(step, fault, reason):
    course = masked(step, fault)
    assert course.notices == [f"round 2: client 1: step {step!r}: {reason}", "round 2 goes on with 2 of 3 clients"]
    check_the_others_go_on(course, all_but_one)


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_who_does_not_help_to_unmask_is_named_and_is_in_the_sum(fault, reason):
    course = masked(UNMASK, fault)
    assert course.notices == [f"round 2: client 1: step 'unmask': {reason}"]
    check_the_others_go_on(course, everybody)


@pytest.mark.parametrize(
    ("step", "content", "reason"),
    [(KEYS, b"x", "what it sends are no keys"), (SHARES, b"x", "what was said about the masks cannot be read")],
)
def test_what_cannot_be_read_is_named(step, content, reason):
    course = masked(step, saying(step, content))
    assert course.notices[0] == f"round 2: client 1: step {step!r}: {reason}"
    check_the_others_go_on(course, all_but_one)


def test_who_does_not_answer_a_step_is_named():
    course = masked(SHARES, lambda message, reply: [])
    assert course.notices == ["round 2: client 1 did not answer", "round 2 goes on with 2 of 3 clients"]
    check_the_others_go_on(course, all_but_one)


def test_who_is_not_connected_is_named_under_masks_too():
    course = play(parties(federated(aggregation=MASKING)), partial(Late, looks=1))
    assert course.notices == ["round 1: client 2 is not connected", "round 1 goes on with 2 of 3 clients"]
    check_the_others_go_on(course, lambda number: range(2 if number == 1 else 3))


def test_answers_of_an_earlier_round_open_nothing_in_this_one():
    kept: list[bytes] = []

    def again(message: Message, reply: Message) -> list[Message]:
        return with_status(number=1)(message, saying(UNMASK, kept[0])(message, reply)[0])

    class Again(InStep):
        def after(self, message: Message, reply: Message) -> list[Message]:
            if STEP in reply.content and unpack_step(reply.content)[0] == UNMASK and not kept:
                kept.append(unpack_step(reply.content)[1])
            return super().after(message, reply)

    course = play(parties(federated(aggregation=MASKING)), partial(Again, step=UNMASK, fault=again))
    assert course.notices == ["round 2: client 1: step 'unmask': its answer is of round 1"]
    check_the_others_go_on(course, everybody)


def test_a_wrong_share_of_one_who_helps_to_unmask_changes_no_sum():
    def wrong(content: bytes) -> bytes:
        return pack_entries({client: bytes(ELEMENT_BYTES) for client in unpack_entries(content, ELEMENT_BYTES)})

    course = masked(UNMASK, with_said(wrong))
    (notice,) = course.notices
    assert notice.startswith("round 2: client 1: step 'unmask': it gives another share than client")
    check_the_others_go_on(course, everybody)


def by_members(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[MaskingClients], None], *faults: Fault) -> Course:
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
def test_a_client_whose_letters_nobody_can_read_is_named_and_left_out(readers, shown, monkeypatch):
    fault = (lambda message, reply: []) if shown is None else saying(DISPUTES, shown)
    course = by_members(monkeypatch, partial(unreadable, readers_of={1: readers}, number=2), fault)
    assert course.failure is None and len(course.notices) == 2
    assert course.notices[0].startswith("round 2: client 1") and course.notices[1] == GOES_ON
    check_the_others_go_on(course, all_but_one)


def test_letters_without_a_signature_have_their_sender_left_out():
    def scrambled(content: bytes) -> bytes:
        own, letters = parse_shares_reply(content)
        return own + pack_entries({reader: bytes(ENCRYPTED_SHARES_BYTES) for reader in letters})

    course = masked(SHARES, with_said(scrambled))
    assert course.notices == [
        "round 2: client 1: step 'shares': its letter to client 0 does not have its signature, or is of other keys",
        GOES_ON,
    ]
    check_the_others_go_on(course, all_but_one)


def dividing_badly(side: MaskingClients) -> None:
    """Have client 1 divide other secrets in round 2 than those whose points it has published."""
    honest = side._divide

    def divide(turn: RoundContext, client: int, publics: dict[int, bytes]) -> bytes:
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
def test_a_client_whose_shares_do_not_fit_is_named_and_left_out(spoil, said, monkeypatch):
    course = by_members(monkeypatch, spoil)
    assert course.notices == [f"round 2: client 1: {said}", GOES_ON]
    check_the_others_go_on(course, all_but_one)


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
        "complaint of everybody",
    ],
)
def test_a_dispute_that_is_settled_leaves_nobody_out(spoil, monkeypatch):
    course = by_members(monkeypatch, spoil)
    steps = [unpack_step(sent.content)[0] for way, sent in course.messages if way == "down" and STEP in sent.content]
    assert DISPUTES in steps and course.notices == []
    check_the_others_go_on(course, everybody)
