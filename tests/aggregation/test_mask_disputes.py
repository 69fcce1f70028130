"""Disputes about shares: they exclude no honest client, and the sum is right."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from ppml.aggregation.group import ELEMENT_BYTES
from ppml.aggregation.interfaces import UPLOAD
from ppml.aggregation.masking_clients import MaskingClients
from ppml.aggregation.masking_server import MaskingServer
from ppml.aggregation.masks import (
    DISPUTES,
    UNMASK,
    complaint_message,
    pack_entries,
    pairwise_mask_sum,
    round_context,
    self_mask,
    unpack_entries,
)
from ppml.errors import InvalidUpdate

from .share_faults import complain_falsely, send_unreadable_shares, send_wrong_shares, values_in
from .test_masking import Round, updates


class Tolerant(Round):
    """A round whose server excludes a client with an invalid reply, as a federation does."""

    def answer(self, step, client, number, request):
        try:
            super().answer(step, client, number, request)
        except InvalidUpdate as fault:
            self.excluded[client] = f"{step}: {fault}"


def check_sum(parties: Tolerant, expected: list[int], lost=(), late=()) -> None:
    values = updates(len(parties.sides))
    found, active = parties.run(values, lost=lost, late=late)
    assert active == expected
    assert np.array_equal(found, sum(values[client] for client in expected))


def send_unreadable_shares_and_show_none(side: MaskingClients, recipients_of: dict[int, list[int]]) -> None:
    send_unreadable_shares(side, recipients_of)
    side._answer_complaints = lambda state, client, complaints: b""


FAULTY_SENDERS = {
    "unreadable, shown": (send_unreadable_shares, None),
    "unreadable, not shown": (send_unreadable_shares_and_show_none, "disputes: the client does not show"),
    "wrong, right ones shown": (partial(send_wrong_shares, shows=False), None),
    "wrong, shown": (
        partial(send_wrong_shares, shows=True),
        "disputes: the client shows other shares than it has sent to client {reader}",
    ),
}


@pytest.mark.parametrize("readers", [[0], [2, 3, 6], [0, 1, 3, 4, 5, 6, 7]], ids=["one", "some", "all"])
@pytest.mark.parametrize(("send", "why"), FAULTY_SENDERS.values(), ids=FAULTY_SENDERS)
def test_sender_of_faulty_shares_shows_right_ones_or_is_excluded(send, why, readers):
    parties = Tolerant()
    send(parties.sides[2], {2: readers})
    check_sum(parties, [client for client in range(8) if client != 2 or not why])
    assert list(parties.excluded) == ([2] if why else [])
    assert not why or parties.excluded[2].startswith(why.format(reader=min({*readers} - {2})))


def test_recipient_without_point_check_reveals_wrong_share(monkeypatch):
    monkeypatch.setattr("ppml.aggregation.masking_clients.shares_match", lambda shares, points: True)
    parties = Tolerant()
    send_wrong_shares(parties.sides[2], {2: [0]}, shows=False)
    check_sum(parties, list(range(8)))
    assert parties.excluded == {0: "unmask: the client reveals another share than client 2 has sent it"}


@pytest.mark.parametrize(("clients", "threshold"), [(3, 2), (2, 2), (8, 6)])
def test_shown_shares_replace_all_unreadable_ones(clients, threshold):
    parties = Tolerant(clients, threshold)
    send_unreadable_shares(parties.sides[1], {1: range(clients)})
    check_sum(parties, list(range(clients)))


@pytest.mark.parametrize("lost", [True, False], ids=["it uploads nothing", "it does not help to unmask"])
def test_sender_of_unreadable_shares_may_drop_out_later(lost):
    parties = Tolerant()
    send_unreadable_shares(parties.sides[2], {2: range(8)})
    check_sum(parties, [0, 1, 3, 4, 5, 6, 7] if lost else list(range(8)), **{"lost" if lost else "late": [2]})


def test_server_without_shown_shares_fails(monkeypatch):
    recovered = MaskingServer._recover_secret

    def forgetful(self, client, given):
        self._replies[DISPUTES].clear()
        return recovered(self, client, given)

    monkeypatch.setattr(MaskingServer, "_recover_secret", forgetful)
    parties = Tolerant()
    send_unreadable_shares(parties.sides[2], {2: range(8)})
    with pytest.raises((InvalidUpdate, ValueError), match="share"):
        parties.run(updates())


@pytest.mark.parametrize("senders", [[1], [0, 1, 2, 4, 5, 6, 7]], ids=["of one", "of everybody"])
@pytest.mark.parametrize("late", [[], [3], [3, 5]], ids=str)
def test_false_complaints_exclude_no_client(senders, late):
    parties = Tolerant()
    complain_falsely(parties.sides[3], 3, senders)
    check_sum(parties, list(range(8)), late=late)
    assert parties.excluded == {}


def test_most_tolerated_complainers_exclude_no_client():
    parties = Tolerant()
    for liar in (3, 5):
        complain_falsely(parties.sides[liar], liar, [client for client in range(8) if client != liar])
    check_sum(parties, [client for client in range(8) if client not in (3, 5)], lost=[3, 5])
    assert parties.excluded == {}


def test_round_without_disputes_has_no_dispute_requests():
    parties = Tolerant()
    assert parties.server.request(DISPUTES, parties.until(DISPUTES)) == {}


# Shown shares.


def disputed() -> tuple[Tolerant, dict[int, bytes]]:
    """Return a round in which client 3 complains about client 1, and the dispute requests."""
    parties = Tolerant()
    complain_falsely(parties.sides[3], 3, [1])
    return parties, parties.server.request(DISPUTES, parties.until(DISPUTES))


def test_client_shows_only_disputed_shares():
    parties, requests = disputed()
    assert list(requests) == [1]
    sent = dict(parties.sides[1]._states[1].sent_shares)
    assert unpack_entries(parties.sides[1].respond(DISPUTES, 1, 1, requests[1]), 2 * ELEMENT_BYTES) == {3: sent[3]}


def test_client_refuses_unsigned_or_old_complaint():
    parties, requests = disputed()
    (signature,) = unpack_entries(requests[1], 64).values()
    side, context = parties.sides[1], parties.sides[1]._states[1].context
    other_list = round_context(2, {0: b""})
    fakes = {
        "of another reader": {4: signature},
        "about another client": {3: parties.sides[3]._signers.sign(3, complaint_message(context, 2, 3))},
        "about another list": {3: parties.sides[3]._signers.sign(3, complaint_message(other_list, 1, 3))},
        "of the client itself": {1: side._signers.sign(1, complaint_message(context, 1, 1))},
        "of a stranger": {9: signature},
    }
    for fake in fakes.values():
        with pytest.raises(InvalidUpdate, match=r"not signed by client|clients that do not take part"):
            side.respond(DISPUTES, 1, 1, pack_entries(fake))


def test_client_shows_no_shares_after_list_of_partners():
    parties, requests = disputed()
    parties.sides[1].respond(UPLOAD, 1, 1, pack_entries(dict.fromkeys(range(8), b"")))
    with pytest.raises(InvalidUpdate, match="after the partners were named"):
        parties.sides[1].respond(DISPUTES, 1, 1, requests[1])


def test_shown_shares_give_coalition_no_new_information():
    """Two false complaints give the server two of six needed shares, which the two clients had before."""
    parties = Tolerant()
    for liar in (3, 5):
        complain_falsely(parties.sides[liar], liar, [1])
    active = parties.until(UPLOAD)
    shown = unpack_entries(parties.server._replies[DISPUTES][1], 2 * ELEMENT_BYTES)
    assert active == list(range(8)) and shown.keys() == {3, 5} and len(shown) < parties.threshold


# Refused messages.


def test_sender_of_badly_signed_shares_is_excluded():
    parties = Tolerant()
    honest = parties.sides[2]._share_message
    parties.sides[2]._share_message = lambda *given: honest(*given)[:-1] + b"x"
    check_sum(parties, [client for client in range(8) if client != 2])
    assert parties.excluded == {
        2: "shares: the share message to client 0 lacks the client's signature, or is for other keys"
    }


@pytest.mark.parametrize(
    ("complaints", "why"),
    [
        ({1: bytes(64)}, "about client 1 lacks the client's signature"),
        ({0: bytes(64)}, "sent it no"),
        ({9: bytes(64)}, "sent it"),
    ],
    ids=["unsigned", "of itself", "of a stranger"],
)
def test_author_of_invalid_complaint_is_excluded(complaints, why):
    parties = Tolerant()
    parties.sides[0]._read_shares = lambda state, client, messages: pack_entries(complaints)
    check_sum(parties, list(range(1, 8)))
    assert list(parties.excluded) == [0] and why in parties.excluded[0]


@pytest.mark.parametrize("partners", [range(5), range(1, 8), range(9)], ids=["few", "without it", "a stranger"])
def test_client_refuses_wrong_list_of_partners(partners):
    parties = Tolerant()
    parties.until(UPLOAD)
    with pytest.raises(InvalidUpdate, match=r"have sent no shares|5 clients have common masks"):
        parties.sides[0].respond(UPLOAD, 0, 1, pack_entries(dict.fromkeys(partners, b"")))
    with pytest.raises(InvalidUpdate, match="no client has a share"):
        parties.sides[0].protect(np.zeros(3, np.int64), 0, 1)


def test_client_refuses_second_list_of_partners():
    parties = Tolerant()
    parties.until(UNMASK)
    with pytest.raises(InvalidUpdate, match="a second list"):
        parties.sides[0].respond(UPLOAD, 0, 1, pack_entries(dict.fromkeys(range(7), b"")))


def test_no_client_reveals_share_of_excluded_client():
    parties = Tolerant()
    send_unreadable_shares_and_show_none(parties.sides[2], {2: [0]})
    parties.run(updates())
    given = [unpack_entries(said, ELEMENT_BYTES).keys() for said in parties.server._replies[UNMASK].values()]
    assert all(2 not in clients for clients in given) and len(given) == 7


def test_masks_under_different_partner_lists_do_not_cancel():
    """A server that names client 7 to some clients only gets a random sum: the masks of the difference remain."""
    parties, values = Tolerant(), updates()
    parties.until(UPLOAD)
    masked, length = np.zeros(100, "<u4"), 100
    for client in range(7):
        requests = range(8) if client < 3 else range(7)
        parties.sides[client].respond(UPLOAD, client, 1, pack_entries(dict.fromkeys(requests, b"")))
        state = parties.sides[client]._states[client]
        masked += values_in(parties.sides[client].protect(values[client], client, 1))
        masked -= self_mask(state.self_mask_secret, length, 4)
    left = (masked - sum(values[:7]).astype("<u4")).astype("<u4")
    key = parties.sides[7]._states[7].pairwise_secret
    state = parties.sides[0]._states[0]
    common = pairwise_mask_sum(
        key, {client: state.partner_keys[client] for client in range(3)}, 7, state.context, length, 4
    )
    assert np.array_equal(left, np.uint32(0) - common) and len(np.unique(left)) == length
