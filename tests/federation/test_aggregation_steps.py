"""The server reports and ignores invalid step replies and replayed uploads; the other clients continue."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from flwr.app import Message, MessageType

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

from ..aggregation.share_faults import complain_falsely, send_unreadable_shares, send_wrong_shares
from .parties import (
    CKKS,
    Course,
    Fault,
    Wire,
    failed,
    faulty,
    federated,
    parties,
    play,
    with_record,
    with_records,
    with_status,
)
from .test_server import (
    all_but_client_1_in_round_2,
    all_clients,
    check_one_reply_is_ignored,
    check_others_continue,
)

MASKING = {"kind": "masking", "threshold": 2}
PROTECTIONS = {
    "ckks": CKKS,
    "bfv": {"kind": "bfv"},
    "bfv shared": {"kind": "bfv", "keys": "shared"},
    "shares": {"kind": "secret_sharing"},
    "masking": MASKING,
}
CONTINUES = "round 2 continues with 2 of 3 clients"


# Replayed uploads.


class ReplayingWire(Wire):
    """In round 2, client 1 sends the upload of ``client`` in round ``number``."""

    def __init__(self, *given: Any, client: int, number: int) -> None:
        super().__init__(*given)
        self._from, self._kept = (number, client), None

    def after(self, message: Message, reply: Message) -> list[Message]:
        if message.metadata.message_type == MessageType.TRAIN:
            place = unpack_request(message.content).number, message.metadata.dst_node_id - 2
            if place == self._from:
                self._kept = reply.content[UPDATE]
            if place == (2, 1):
                return [with_records(message, reply, **{UPDATE: self._kept})]
        return [reply]


@pytest.mark.parametrize("aggregation", PROTECTIONS.values(), ids=PROTECTIONS)
@pytest.mark.parametrize(
    ("client", "number", "reason"),
    [(1, 1, "the upload is of round 1"), (0, 2, "the upload is of client 0")],
    ids=["of another round", "of another client"],
)
def test_replayed_upload_is_reported_and_ignored(aggregation, client, number, reason):
    course = play(parties(federated(aggregation=aggregation)), partial(ReplayingWire, client=client, number=number))
    check_one_reply_is_ignored(course, reason)


def test_replayed_upload_in_the_sum_is_detected(monkeypatch):
    for module in ("lattice", "envelope"):
        monkeypatch.setattr(f"ppml.aggregation.{module}.check_header", lambda header, client, number: None)
    course = play(parties(federated(aggregation=PROTECTIONS["bfv"])), partial(ReplayingWire, client=1, number=1))
    assert course.notices == []
    with pytest.raises(AssertionError, match="to the grid point"):
        check_others_continue(course, all_clients)


# Steps.


STEP_QUERY = f"{MessageType.QUERY}.{STEP}"


def faulty_step(step: str, fault: Fault) -> Callable[..., Wire]:
    """Return a wire that applies ``fault`` to the reply of client 1 to ``step`` in round 2."""
    return faulty(
        fault,
        STEP_QUERY,
        1,
        when=lambda content: (unpack_request(content).number, unpack_step(content)[0]) == (2, step),
    )


def play_with_masking(step: str, fault: Fault) -> Course:
    return play(parties(federated(aggregation=MASKING)), faulty_step(step, fault))


def with_content(step: str, content: bytes) -> Fault:
    return with_record(**{STEP: pack_step(step, content)})


def with_changed_content(change: Callable[[bytes], bytes]) -> Fault:
    """Return a fault: a changed content of the reply."""

    def fault(message: Message, reply: Message) -> list[Message]:
        step, content = unpack_step(reply.content)
        return with_content(step, change(content))(message, reply)

    return fault


FAULTS: dict[str, tuple[Fault, str]] = {
    "an error": (failed, "the client failed: out of memory round 2: client 0: a line of another"),
    "another round": (with_status(number=1), "its reply is for round 1"),
    "another client": (with_status(client=2), "its reply names client 2"),
    "another step": (with_content("other", b""), "its reply is for step 'other'"),
    "nothing": (with_record(step=None), "its reply cannot be read: 'step' is missing"),
    "no status": (with_record(status=None), "its reply names no client and no round"),
}


@pytest.mark.parametrize(
    ("step", "fault", "reason"),
    [
        *((step, fault, reason) for step in (KEYS, SHARES) for fault, reason in FAULTS.values()),
        (KEYS, with_content(KEYS, b"x"), "the client's keys have the wrong length"),
        (SHARES, with_content(SHARES, b"x"), "a masking message cannot be parsed"),
    ],
)
def test_client_with_an_invalid_step_reply_is_excluded(step, fault, reason):
    course = play_with_masking(step, fault)
    assert course.notices == [f"round 2: client 1: step {step!r}: {reason}", CONTINUES]
    check_others_continue(course, all_but_client_1_in_round_2)


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_client_with_an_invalid_unmask_reply_stays_in_the_sum(fault, reason):
    course = play_with_masking(UNMASK, fault)
    assert course.notices == [f"round 2: client 1: step 'unmask': {reason}"]
    check_others_continue(course, all_clients)


def test_missing_step_reply_is_reported():
    course = play_with_masking(SHARES, lambda message, reply: [])
    assert course.notices == ["round 2: client 1 did not reply", CONTINUES]
    check_others_continue(course, all_but_client_1_in_round_2)


def test_unmask_reply_for_an_earlier_round_is_refused():
    kept: list[bytes] = []

    def again(message: Message, reply: Message) -> list[Message]:
        kept.append(unpack_step(reply.content)[1])
        if len(kept) != 2:
            return [reply]
        return with_status(number=1)(message, with_content(UNMASK, kept[0])(message, reply)[0])

    wire = faulty(again, STEP_QUERY, 1, when=lambda content: unpack_step(content)[0] == UNMASK)
    course = play(parties(federated(aggregation=MASKING)), wire)
    assert course.notices == ["round 2: client 1: step 'unmask': its reply is for round 1"]
    check_others_continue(course, all_clients)


def test_wrong_share_at_unmasking_changes_no_sum():
    def wrong(content: bytes) -> bytes:
        return pack_entries({client: bytes(ELEMENT_BYTES) for client in unpack_entries(content, ELEMENT_BYTES)})

    course = play_with_masking(UNMASK, with_changed_content(wrong))
    (notice,) = course.notices
    assert notice.startswith("round 2: client 1: step 'unmask': the client reveals another share than client")
    check_others_continue(course, all_clients)


def play_with_faulty_clients(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[MaskingClients], None], *faults: Fault
) -> Course:
    """Return a training with clients changed by ``spoil``, and faults in their replies to disputes."""
    begin = MaskingClients.__init__

    def made(self: MaskingClients, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        spoil(self)

    monkeypatch.setattr(MaskingClients, "__init__", made)
    wires = [faulty_step(DISPUTES, fault) for fault in faults]
    return play(parties(federated(aggregation=MASKING)), *wires)


@pytest.mark.parametrize("recipients", [[0], [2], [0, 2]], ids=["one", "the other", "all"])
@pytest.mark.parametrize("shown", [b"x", b"", None], ids=["unreadable", "nothing", "no reply"])
def test_client_with_unreadable_shares_is_excluded(recipients, shown, monkeypatch):
    fault = (lambda message, reply: []) if shown is None else with_content(DISPUTES, shown)
    course = play_with_faulty_clients(
        monkeypatch, partial(send_unreadable_shares, recipients_of={1: recipients}, number=2), fault
    )
    assert course.failure is None and len(course.notices) == 2
    assert course.notices[0].startswith("round 2: client 1") and course.notices[1] == CONTINUES
    check_others_continue(course, all_but_client_1_in_round_2)


def test_client_with_unsigned_shares_is_excluded():
    def scrambled(content: bytes) -> bytes:
        own, messages = parse_shares_reply(content)
        return own + pack_entries({recipient: bytes(SHARE_MESSAGE_BYTES) for recipient in messages})

    course = play_with_masking(SHARES, with_changed_content(scrambled))
    assert course.notices == [
        "round 2: client 1: step 'shares': the share message to client 0 lacks the client's signature, or is for other "
        "keys",
        CONTINUES,
    ]
    check_others_continue(course, all_but_client_1_in_round_2)


def split_other_secrets(side: MaskingClients) -> None:
    """Have client 1 split other secrets in round 2 than those of its public keys."""
    split = side._split_secrets

    def split_secrets(state: MaskingState, client: int, advertised: dict[int, bytes]) -> bytes:
        secret = state.self_mask_secret
        if (client, state.number) == (1, 2):
            state.self_mask_secret = random_scalar()
            state.public_keys = lambda: advertised[1][:PUBLIC_KEYS_BYTES]
        try:
            return split(state, client, advertised)
        finally:
            state.self_mask_secret = secret

    side._split_secrets = split_secrets


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (split_other_secrets, "step 'shares': the shares of the client are not of the secrets of its public keys"),
        (
            partial(send_wrong_shares, recipients_of={1: [0, 2]}, shows=True, number=2),
            "step 'disputes': the client shows other shares than it has sent to client 0",
        ),
    ],
    ids=["other secrets", "other shares, the same shown"],
)
def test_client_with_inconsistent_shares_is_excluded(spoil, reason, monkeypatch):
    course = play_with_faulty_clients(monkeypatch, spoil)
    assert course.notices == [f"round 2: client 1: {reason}", CONTINUES]
    check_others_continue(course, all_but_client_1_in_round_2)


@pytest.mark.parametrize(
    "spoil",
    [
        partial(send_unreadable_shares, recipients_of={1: [0, 2]}, number=2),
        partial(send_wrong_shares, recipients_of={1: [0, 2]}, shows=False, number=2),
        partial(complain_falsely, recipient=1, senders=[0], number=2),
        partial(complain_falsely, recipient=1, senders=[0, 2], number=2),
    ],
    ids=[
        "unreadable shares, right ones shown",
        "other shares, right ones shown",
        "complaint about one",
        "complaint about all",
    ],
)
def test_settled_dispute_excludes_no_client(spoil, monkeypatch):
    course = play_with_faulty_clients(monkeypatch, spoil)
    steps = [unpack_step(sent.content)[0] for way, sent in course.messages if way == "down" and STEP in sent.content]
    assert DISPUTES in steps and course.notices == []
    check_others_continue(course, all_clients)
