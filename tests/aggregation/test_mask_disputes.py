"""Letters of masks that cannot be read, and false complaints: nobody else is left out, and the sum is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ppml.aggregation.group import ELEMENT_BYTES
from ppml.aggregation.interfaces import UPLOAD
from ppml.aggregation.masking_clients import MaskingClients
from ppml.aggregation.masking_server import MaskingServer
from ppml.aggregation.masks import (
    DISPUTES,
    ENCRYPTED_SHARES,
    KEYS,
    SHARE_MESSAGE_BYTES,
    SHARES,
    UNMASK,
    complaint_message,
    pack_entries,
    pairwise_mask_sum,
    round_context,
    self_mask,
    unpack_entries,
)
from ppml.errors import InvalidUpdate

from .letters import complaining, unreadable, values_in, with_other_shares
from .test_masking import Round, swapped, updates, with_entry

Prepare = Callable[[Round], None]


class Tolerant(Round):
    """A round whose server leaves out a client that says something amiss, as a federation does."""

    def __init__(self, clients: int = 8, threshold: int | None = None) -> None:
        super().__init__(clients, threshold)
        self.left_out: dict[int, str] = {}

    def step(self, step, clients, number=1, lost=frozenset()):
        told = self.server.request(step, clients, number)
        there = [client for client in clients if client not in lost]
        for client in [client for client in there if client in told]:
            try:
                self.server.handle_reply(step, client, self.sides[client].respond(step, client, number, told[client]))
            except InvalidUpdate as fault:
                self.left_out[client] = f"{step}: {fault}"
        return [client for client in there if client not in self.left_out]


def check_sum(parties: Tolerant, expected: list[int], lost=(), late=()) -> None:
    values = updates(len(parties.sides))
    found, there = parties.run(values, lost=lost, late=late)
    assert there == expected
    assert np.array_equal(found, sum(values[client] for client in expected))


def silent(side: MaskingClients) -> None:
    """Have a client show no shares."""
    side._answer_complaints = lambda turn, client, complaints: b""


@pytest.mark.parametrize("readers", [[0], [2, 3, 6], [0, 1, 3, 4, 5, 6, 7]], ids=["one", "some", "all"])
@pytest.mark.parametrize("shows", [True, False])
def test_a_client_with_letters_that_others_cannot_read_shows_the_shares_or_is_left_out_alone(readers, shows):
    parties = Tolerant()
    unreadable(parties.sides[2], {2: readers})
    if not shows:
        silent(parties.sides[2])
    check_sum(parties, [client for client in range(8) if shows or client != 2])
    assert list(parties.left_out) == ([] if shows else [2])
    if not shows:
        assert parties.left_out[2].startswith("disputes: it does not show the shares")


@pytest.mark.parametrize("readers", [[0], [3, 6, 7], [0, 1, 3, 4, 5, 6, 7]], ids=["one", "some", "all"])
@pytest.mark.parametrize("shows_them", [True, False])
def test_a_client_that_sends_other_shares_than_those_of_its_points_shows_the_right_ones_or_is_left_out_alone(
    readers, shows_them
):
    parties = Tolerant()
    with_other_shares(parties.sides[2], {2: readers}, shows=shows_them)
    check_sum(parties, [client for client in range(8) if client != 2 or not shows_them])
    assert list(parties.left_out) == ([2] if shows_them else [])
    if shows_them:
        assert parties.left_out[2] == f"disputes: shows other shares than it has sent to client {readers[0]}"


def test_a_reader_that_does_not_compare_shares_with_their_points_is_the_one_that_gives_a_wrong_one(monkeypatch):
    monkeypatch.setattr("ppml.aggregation.masking_clients.shares_match", lambda shares, points: True)
    parties = Tolerant()
    with_other_shares(parties.sides[2], {2: [0]}, shows=False)
    check_sum(parties, list(range(8)))
    assert parties.left_out == {0: "unmask: it gives another share than client 2 has sent it"}


@pytest.mark.parametrize(("clients", "threshold"), [(3, 2), (2, 2), (8, 6)])
def test_shares_that_were_shown_open_the_sum_where_no_reader_has_one(clients, threshold):
    parties = Tolerant(clients, threshold)
    unreadable(parties.sides[1], {1: range(clients)})
    check_sum(parties, list(range(clients)))


@pytest.mark.parametrize("lost", [True, False], ids=["it uploads nothing", "it does not help to unmask"])
def test_a_client_with_such_letters_may_be_lost_afterwards(lost):
    parties = Tolerant()
    unreadable(parties.sides[2], {2: range(8)})
    check_sum(parties, [0, 1, 3, 4, 5, 6, 7] if lost else list(range(8)), **{"lost" if lost else "late": [2]})


def test_shown_shares_that_the_server_forgets_are_missed(monkeypatch):
    recovered = MaskingServer._recovered

    def forgetful(self, client, given):
        self._replies[DISPUTES].clear()
        return recovered(self, client, given)

    monkeypatch.setattr(MaskingServer, "_recover_secret", forgetful)
    parties = Tolerant()
    unreadable(parties.sides[2], {2: range(8)})
    with pytest.raises((InvalidUpdate, ValueError), match="share"):
        parties.run(updates())


@pytest.mark.parametrize("senders", [[1], [0, 1, 2, 4, 5, 6, 7]], ids=["of one", "of everybody"])
@pytest.mark.parametrize("late", [[], [3], [3, 5]], ids=str)
def test_a_client_that_complains_of_honest_ones_has_nobody_left_out(senders, late):
    parties = Tolerant()
    complaining(parties.sides[3], 3, senders)
    check_sum(parties, list(range(8)), late=late)
    assert parties.left_out == {}


def test_as_many_as_can_be_spared_complain_of_everybody_and_nobody_is_left_out():
    parties = Tolerant()
    for liar in (3, 5):
        complaining(parties.sides[liar], liar, [client for client in range(8) if client != liar])
    check_sum(parties, [client for client in range(8) if client not in (3, 5)], lost=[3, 5])
    assert parties.left_out == {}


def test_without_disputes_no_client_is_asked_about_any():
    parties = Tolerant()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    assert parties.server.request(DISPUTES, parties.step(ENCRYPTED_SHARES, there)) == {}


# What a client shows.


def disputed() -> tuple[Tolerant, dict[int, bytes]]:
    """Return a round in which client 3 complains about client 1, and what each client is told of disputes."""
    parties = Tolerant()
    complaining(parties.sides[3], 3, [1])
    there = parties.step(ENCRYPTED_SHARES, parties.step(SHARES, parties.step(KEYS, list(range(8)))))
    return parties, parties.server.request(DISPUTES, there)


def test_a_client_shows_what_it_has_sent_to_those_that_complain_and_nothing_else():
    parties, told = disputed()
    assert list(told) == [1]
    sent = dict(parties.sides[1]._states[1].sent_shares)
    assert unpack_entries(parties.sides[1].respond(DISPUTES, 1, 1, told[1]), 2 * ELEMENT_BYTES) == {3: sent[3]}


def test_a_client_shows_nothing_for_a_complaint_that_its_reader_has_not_signed_for_this_round():
    parties, told = disputed()
    (signature,) = unpack_entries(told[1], 64).values()
    side, about = parties.sides[1], parties.sides[1]._states[1].context
    other_list = round_context(2, {0: b""})
    fakes = {
        "of another reader": {4: signature},
        "about another client": {3: parties.sides[3]._signers.sign(3, complaint_message(about, 2, 3))},
        "about another list": {3: parties.sides[3]._signers.sign(3, complaint_message(other_list, 1, 3))},
        "of the client itself": {1: side._signers.sign(1, complaint_message(about, 1, 1))},
        "of a stranger": {9: signature},
    }
    for fake in fakes.values():
        with pytest.raises(InvalidUpdate, match=r"not signed by client|clients that do not take part"):
            side.respond(DISPUTES, 1, 1, pack_entries(fake))


def test_a_client_shows_nothing_once_the_clients_of_the_sum_are_named():
    parties, told = disputed()
    parties.sides[1].respond(UPLOAD, 1, 1, pack_entries(dict.fromkeys(range(8), b"")))
    with pytest.raises(InvalidUpdate, match="after the partners were named"):
        parties.sides[1].respond(DISPUTES, 1, 1, told[1])


def test_what_was_shown_says_no_more_than_the_clients_that_complained_know():
    """Two false complaints: of a threshold of six, the server has two shares, which the two clients had anyway."""
    parties = Tolerant()
    for liar in (3, 5):
        complaining(parties.sides[liar], liar, [1])
    there = parties.divided(parties.step(KEYS, list(range(8))))
    shown = unpack_entries(parties.server._replies[DISPUTES][1], 2 * ELEMENT_BYTES)
    assert there == list(range(8)) and shown.keys() == {3, 5} and len(shown) < parties.threshold


# What a client refuses, and the server.


def test_letters_are_read_once():
    parties = Tolerant()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    told = parties.server.request(ENCRYPTED_SHARES, there)
    parties.sides[0].respond(ENCRYPTED_SHARES, 0, 1, told[0])
    with pytest.raises(InvalidUpdate, match="or repeated"):
        parties.sides[0].respond(ENCRYPTED_SHARES, 0, 1, told[0])


def test_a_letter_without_its_sender_s_signature_is_no_ground_for_a_complaint():
    """The server has altered it: a complaint would have its sender show what the server asks for."""
    parties = Tolerant()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    told = parties.server.request(ENCRYPTED_SHARES, there)[0]
    altered = bytearray(unpack_entries(told, SHARE_MESSAGE_BYTES)[1])
    altered[5] ^= 1
    with pytest.raises(InvalidUpdate, match="share message of client 1 was altered"):
        parties.sides[0].respond(
            ENCRYPTED_SHARES, 0, 1, swapped(told, SHARE_MESSAGE_BYTES, with_entry(1, bytes(altered)))
        )


def test_a_letter_that_is_badly_signed_has_its_sender_left_out_before_it_is_delivered():
    parties = Tolerant()
    honest = parties.sides[2]._share_message
    parties.sides[2]._share_message = lambda *given: honest(*given)[:-1] + b"x"
    check_sum(parties, [client for client in range(8) if client != 2])
    assert parties.left_out == {2: "shares: its letter to client 0 does not have its signature, or is of other keys"}


@pytest.mark.parametrize(
    ("complaints", "why"),
    [
        ({1: bytes(64)}, "about client 1 lacks the client's signature"),
        ({0: bytes(64)}, "sent it no"),
        ({9: bytes(64)}, "sent it"),
    ],
    ids=["unsigned", "of itself", "of a stranger"],
)
def test_a_complaint_that_is_not_right_has_its_own_client_left_out(complaints, why):
    parties = Tolerant()
    parties.sides[0]._read_shares = lambda turn, client, letters: pack_entries(complaints)
    check_sum(parties, list(range(1, 8)))
    assert list(parties.left_out) == [0] and why in parties.left_out[0]


@pytest.mark.parametrize("partners", [range(5), range(1, 8), range(9)], ids=["few", "without it", "a stranger"])
def test_a_list_of_the_sum_that_a_client_can_tell_to_be_wrong_is_refused(partners):
    parties = Tolerant()
    parties.divided(parties.step(KEYS, list(range(8))))
    with pytest.raises(InvalidUpdate, match="have sent no shares"):
        parties.sides[0].respond(UPLOAD, 0, 1, pack_entries(dict.fromkeys(partners, b"")))
    with pytest.raises(InvalidUpdate, match="no client has a share"):
        parties.sides[0].protect(np.zeros(3, np.int64), 0, 1)


def test_a_second_list_of_the_sum_is_refused():
    parties = Tolerant()
    there = parties.divided(parties.step(KEYS, list(range(8))))
    parties.sealed(updates(), there)
    with pytest.raises(InvalidUpdate, match="a second list"):
        parties.sides[0].respond(UPLOAD, 0, 1, pack_entries(dict.fromkeys(range(7), b"")))


def test_nobody_gives_a_share_of_a_client_that_was_left_out_of_the_sum():
    parties = Tolerant()
    unreadable(parties.sides[2], {2: [0]})
    silent(parties.sides[2])
    parties.run(updates())
    given = [unpack_entries(said, ELEMENT_BYTES).keys() for said in parties.server._replies[UNMASK].values()]
    assert all(2 not in clients for clients in given) and len(given) == 7


def test_masks_of_clients_that_were_told_different_lists_of_the_sum_do_not_cancel():
    """A server that names client 7 to some alone has a sum that is random: what two lists differ by stays in it."""
    parties, values = Tolerant(), updates()
    parties.divided(parties.step(KEYS, list(range(8))))
    masked, length = np.zeros(100, "<u4"), 100
    for client in range(7):
        told = range(8) if client < 3 else range(7)
        parties.sides[client].respond(UPLOAD, client, 1, pack_entries(dict.fromkeys(told, b"")))
        turn = parties.sides[client]._states[client]
        masked += values_in(parties.sides[client].protect(values[client], client, 1))
        masked -= self_mask(turn.self_mask_secret, length, 4)
    left = (masked - sum(values[:7]).astype("<u4")).astype("<u4")
    key = parties.sides[7]._states[7].pairwise_secret
    turn = parties.sides[0]._states[0]
    common = pairwise_mask_sum(
        key, {client: turn.partner_keys[client] for client in range(3)}, 7, turn.context, length, 4
    )
    assert np.array_equal(left, np.uint32(0) - common) and len(np.unique(left)) == length
