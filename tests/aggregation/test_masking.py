"""Secure aggregation: exact sums, recovered dropouts, and no revealed update."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile

import numpy as np
import pytest

from ppml.aggregation.envelope import FINGERPRINT_BYTES, HEADER_BYTES, header_of, make_envelope, verified_payload
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.group import ELEMENT_BYTES
from ppml.aggregation.hpke import encrypt_classical
from ppml.aggregation.identities import SIGNATURE_BYTES, ClientSigners, KeyRegister, signature_verifier
from ppml.aggregation.interfaces import UPLOAD, ProtectedUpdate
from ppml.aggregation.masking_clients import MaskingClients, MaskingState
from ppml.aggregation.masking_server import MaskingServer
from ppml.aggregation.masks import (
    DISPUTES,
    ENCRYPTED_SHARES,
    KEYS,
    SHARE_MESSAGE_BYTES,
    SHARE_PAIR_BYTES,
    SHARES,
    SIGNED_KEYS_BYTES,
    UNMASK,
    pack_entries,
    pairwise_mask_sum,
    self_mask,
    share_context,
    share_index,
    unpack_entries,
)
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation.shamir import combine
from ppml.aggregation_parameters import masking_threshold
from ppml.errors import InvalidUpdate

from .share_faults import values_in
from .test_secret_sharing import check_uniform

NOBODY: frozenset[int] = frozenset()


class Round:
    """A round among clients with separate states, as in separate processes."""

    def __init__(self, clients: int = 8, threshold: int | None = None, width: int = 4) -> None:
        self.threshold = masking_threshold(threshold, clients)
        self.register = KeyRegister()
        self.server = MaskingServer(self.threshold, width, signature_verifier(self.register))
        self.sides = {
            client: MaskingClients(self.threshold, clients, width, self.register) for client in range(clients)
        }
        self.excluded: dict[int, str] = {}

    def step(self, step: str, clients: Sequence[int], number: int = 1, lost: Collection[int] = NOBODY) -> list[int]:
        requests = self.server.request(step, clients, number)
        active = [client for client in clients if client not in lost]
        for client in active:
            if client in requests:
                self.answer(step, client, number, requests[client])
        return [client for client in active if client not in self.excluded]

    def answer(self, step: str, client: int, number: int, request: bytes) -> None:
        self.server.handle_reply(step, client, self.sides[client].respond(step, client, number, request))

    def until(self, last: str, number: int = 1) -> list[int]:
        """Run the steps before ``last`` with all clients; return the remaining clients."""
        active = list(self.sides)
        for step in takewhile(lambda step: step != last, (KEYS, SHARES, ENCRYPTED_SHARES, DISPUTES, UPLOAD)):
            if step == UPLOAD:
                self.protect_all(updates(len(self.sides)), active, number)
            else:
                active = self.step(step, active, number)
        return active

    def split_secrets(self, clients: Sequence[int], number: int = 1, lost: Collection[int] = NOBODY) -> list[int]:
        """Run the steps from advertised keys to the upload; return the remaining clients."""
        active = self.step(SHARES, clients, number, lost)
        return self.step(DISPUTES, self.step(ENCRYPTED_SHARES, active, number), number)

    def protect_all(
        self, updates: Sequence[np.ndarray], clients: Sequence[int], number: int = 1
    ) -> dict[int, ProtectedUpdate]:
        requests = self.server.request(UPLOAD, clients, number)
        for client in clients:
            self.sides[client].respond(UPLOAD, client, number, requests[client])
        uploads = {client: self.sides[client].protect(updates[client], client, number) for client in clients}
        for client, upload in uploads.items():
            self.server.check(upload, client, number)
        return uploads

    def run(
        self,
        updates: Sequence[np.ndarray],
        number: int = 1,
        early: Collection[int] = NOBODY,
        lost: Collection[int] = NOBODY,
        late: Collection[int] = NOBODY,
    ) -> tuple[np.ndarray, list[int]]:
        """Return the sum and its clients; some drop out before they split secrets, upload, or unmask."""
        active = self.step(KEYS, list(self.sides), number)
        active = self.split_secrets(active, number, lost=early)
        uploads = self.protect_all(updates, active, number)
        active = [client for client in active if client not in lost]
        self.step(UNMASK, active, number, lost=late)
        total = self.server.add([uploads[client] for client in active])
        return self.sides[active[0]].reveal(total), active


def updates(clients: int = 8, length: int = 100) -> list[np.ndarray]:
    rng = np.random.default_rng(clients)
    codec = FixedPointCodec(8.0, 20)
    values = [codec.encode(rng.normal(0, 3, length)) for _ in range(clients)]
    values[0][:], values[1][:] = codec.encode(np.array([8.0, -8.0]))
    return values


# Exact sums.


@pytest.mark.parametrize("clients", [2, 3, 8, 20])
@pytest.mark.parametrize("width", [4, 8])
def test_sums_equal_plaintext_sums(clients, width):
    values = updates(clients)
    clear = PlaintextAggregation(FixedPointCodec(8.0, 20), clients)
    found, active = Round(clients, width=width).run(values)
    assert active == list(range(clients)) and found.dtype == np.int64
    assert np.array_equal(found, clear.reveal(clear.add([clear.protect(value) for value in values])))


@pytest.mark.parametrize("moment", ["early", "lost", "late"])
def test_any_two_of_eight_dropouts_are_recovered(moment):
    values = updates()
    for gone in ((client, (client + 3) % 8) for client in range(8)):
        found, active = Round().run(values, **{moment: gone})
        assert active == [client for client in range(8) if client not in gone or moment == "late"]
        assert np.array_equal(found, sum(values[client] for client in active))


def test_dropouts_at_different_steps_are_recovered():
    values = updates(12)
    found, active = Round(12).run(values, early=[0], lost=[5], late=[11])
    assert active == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert np.array_equal(found, sum(values[client] for client in active))


@pytest.mark.parametrize(
    ("moment", "why"),
    [
        ("early", "5 clients take part in the masks, 6 are needed"),
        ("lost", "5 clients take part in the masks, 6 are needed"),
        ("late", "5 clients unmask the sum, 6 are needed"),
    ],
)
def test_three_of_eight_dropouts_prevent_sum(moment, why):
    with pytest.raises(InvalidUpdate, match=why):
        Round().run(updates(), **{moment: [1, 2, 3]})


def test_each_round_has_new_masks():
    values, parties = updates(3), Round(3)
    masked = []
    for number in (1, 2):
        active = parties.until(UPLOAD, number)
        uploads = parties.protect_all(values, active, number)
        parties.step(UNMASK, active, number)
        assert np.array_equal(parties.sides[0].reveal(parties.server.add(list(uploads.values()))), sum(values))
        masked.append(values_in(uploads[0]))
    # The difference of two uploads of one update would be 0 under the same masks.
    check_uniform_words(masked[0] - masked[1])


def check_uniform_words(values: np.ndarray) -> None:
    assert len(np.unique(values)) > 0.99 * len(values) and abs(values.mean() / 2**32 - 0.5) < 0.2


def test_upload_has_plaintext_size_plus_signature():
    parties = Round()
    uploads = parties.protect_all(updates(), parties.until(UPLOAD))
    assert {len(one.payload) for one in uploads.values()} == {400 + FINGERPRINT_BYTES + HEADER_BYTES + SIGNATURE_BYTES}


@pytest.mark.parametrize("clients", [2, 8, 9])
def test_message_sizes_are_as_documented(clients):
    parties, up, down = Round(clients), SIGNATURE_BYTES, 0
    active = list(range(clients))
    for step in (KEYS, SHARES, ENCRYPTED_SHARES, DISPUTES, UPLOAD, UNMASK):
        requests = parties.server.request(step, active, 1)
        if step == UPLOAD:
            parties.protect_all(updates(clients), active)
        elif requests:
            said = {client: parties.sides[client].respond(step, client, 1, requests[client]) for client in active}
            up += len(said[0])
            for client, content in said.items():
                parties.server.handle_reply(step, client, content)
        down += len(requests.get(0, b""))
    assert (up, down) == (324 + 280 * (clients - 1), 236 + 480 * (clients - 1))


# Visibility.


def test_masked_upload_is_uniform():
    for value in (0, 2**23):
        parties = Round(3)
        uploads = parties.protect_all([np.full(100_000, value)] * 3, parties.until(UPLOAD))
        for one in uploads.values():
            check_uniform(values_in(one))


def reveal_with_colluders(parties: Round, victim: int, upload: ProtectedUpdate, colluders: Sequence[int]) -> np.ndarray:
    """Return the reconstruction of a client's update by the server and some colluding clients."""
    states = {client: parties.sides[client]._states[client] for client in colluders}
    shares = {share_index(client): state.held_shares[victim] for client, state in states.items()}
    own = combine({place: both[:ELEMENT_BYTES] for place, both in shares.items()}, parties.threshold)
    key = combine({place: both[ELEMENT_BYTES:] for place, both in shares.items()}, parties.threshold)
    state = next(iter(states.values()))
    values = values_in(upload)
    masks = self_mask(own, len(values), 4) + pairwise_mask_sum(
        key, state.partner_keys, victim, state.context, len(values), 4
    )
    return (values - masks).view("<i4")


def test_threshold_of_colluding_clients_reveals_update():
    values, parties = updates(), Round()
    uploads = parties.protect_all(values, parties.until(UPLOAD))
    assert np.array_equal(reveal_with_colluders(parties, 0, uploads[0], [1, 2, 3, 4, 5, 6]), values[0])
    with pytest.raises(ValueError, match="5 shares, at least 6 are needed"):
        reveal_with_colluders(parties, 0, uploads[0], [1, 2, 3, 4, 5])


# Requests that a client refuses.


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (SHARES, "already split its secrets"),
        (ENCRYPTED_SHARES, "or repeated"),
        (UNMASK, "already revealed its shares"),
    ],
)
def test_each_step_is_answered_once(step, why):
    parties = Round()
    active = parties.until(step)
    parties.answer(step, 0, 1, parties.server.request(step, active)[0])
    # The second request has one client less.
    with pytest.raises(InvalidUpdate, match=why):
        parties.answer(step, 0, 1, parties.server.request(step, active[:7])[0])


def test_repeated_shares_reveal_update():
    """The fault behind the previous test: with both kinds of shares the server reveals any update."""
    values, parties = updates(), Round()
    uploads = parties.protect_all(values, parties.until(UPLOAD))
    found: dict[str, dict[int, bytes]] = {"present": {}, "lost": {}}
    for claim, present in (("present", range(8)), ("lost", range(1, 8))):
        for client in range(1, 7):
            state = parties.sides[client]._states[client]
            state.revealed = False
            given = parties.sides[client].respond(UNMASK, client, 1, parties.server.request(UNMASK, present)[client])
            found[claim][share_index(client)] = unpack_entries(given, ELEMENT_BYTES)[0]
    own, key = (combine(shares, 6) for shares in found.values())
    state = parties.sides[1]._states[1]
    masked = values_in(uploads[0])
    opened = masked - self_mask(own, 100, 4) - pairwise_mask_sum(key, state.partner_keys, 0, state.context, 100, 4)
    assert np.array_equal(opened.view("<i4"), values[0])


@pytest.mark.parametrize(
    ("present", "why"),
    [
        (range(5), "a sum of 5 partners is not revealed, 6 are needed"),
        ([0], "a sum of 1 partners is not revealed"),
        ([*range(7), 99], "a sum of 8 partners is not revealed"),
    ],
)
def test_sum_of_few_or_unknown_clients_is_not_unmasked(present, why):
    parties = Round()
    parties.until(UNMASK)
    with pytest.raises(InvalidUpdate, match=why):
        parties.sides[0].respond(UNMASK, 0, 1, pack_entries(dict.fromkeys(present, bytes(64))))


def swapped(content: bytes, size: int, change: Callable[[dict[int, bytes]], dict[int, bytes]]) -> bytes:
    return pack_entries(change(unpack_entries(content, size)))


def with_entry(client: int, value: bytes) -> Callable[[dict[int, bytes]], dict[int, bytes]]:
    return lambda entries: {**entries, client: value}


KEY_FAULTS = {
    "its own keys are others": (with_entry(0, bytes(SIGNED_KEYS_BYTES)), "other keys than the client advertised"),
    "it is left out": (
        lambda entries: {client: key for client, key in entries.items() if client},
        "other keys than the client advertised",
    ),
    "one client is there twice": (lambda entries: {**entries, 7: entries[6]}, "is advertised twice"),
    "too few": (
        lambda entries: {client: entries[client] for client in range(5)},
        "5 clients take part, 6 to 8 are needed",
    ),
    "too many": (lambda entries: {**entries, 8: b"k" * SIGNED_KEYS_BYTES}, "9 clients take part, 6 to 8 are needed"),
}


@pytest.mark.parametrize(("change", "why"), KEY_FAULTS.values(), ids=KEY_FAULTS)
def test_client_refuses_wrong_list_of_keys(change, why):
    parties = Round()
    requests = parties.server.request(SHARES, parties.until(SHARES))
    with pytest.raises(InvalidUpdate, match=why):
        parties.sides[0].respond(SHARES, 0, 1, swapped(requests[0], SIGNED_KEYS_BYTES, change))


def test_one_update_per_round_is_protected():
    parties = Round()
    parties.until(UNMASK)
    with pytest.raises(InvalidUpdate, match="already protected an update"):
        parties.sides[0].protect(np.zeros(3, np.int64), 0, 1)


def test_two_updates_under_same_masks_reveal_difference():
    values, parties = updates(3), Round(3)
    first = values_in(parties.protect_all(values, parties.until(UPLOAD))[0])
    parties.sides[0]._states[0].uploaded = False
    second = values_in(parties.sides[0].protect(values[0] + 5, 0, 1))
    assert (second - first).tolist() == [5] * 100


@pytest.mark.parametrize("number", [1, 2])
def test_client_takes_part_once_per_round(number):
    parties = Round()
    parties.until(UNMASK)
    parties.sides[0].respond(KEYS, 0, 2, b"")
    with pytest.raises(InvalidUpdate, match=f"already taken part in round {number}"):
        parties.sides[0].respond(KEYS, 0, number, b"")


FORGED_SHARES: dict[str, Callable[[Round, bytes], bytes]] = {
    "nothing": lambda parties, message: bytes(SHARE_MESSAGE_BYTES),
    # A complaint about an altered message would have its sender show shares.
    "a bit": lambda parties, message: message[:5] + bytes([message[5] ^ 1]) + message[6:],
    "signed by the server": lambda parties, message: signed_by_server(parties.sides[0]._states[0]),
}


def signed_by_server(state: MaskingState) -> bytes:
    """Return a readable share message of client 3 to client 0 with another key's signature."""
    context = share_context(state.context, 3, 0)
    message = encrypt_classical(bytes(SHARE_PAIR_BYTES), state.encryption_key.public, context) + bytes(SHARE_PAIR_BYTES)
    return message + ClientSigners(lambda client, public: None).sign(3, context + message)


@pytest.mark.parametrize("forge", FORGED_SHARES.values(), ids=FORGED_SHARES)
def test_forged_shares_are_refused_before_upload(forge):
    parties = Round()
    active = parties.until(ENCRYPTED_SHARES)
    request = parties.server.request(ENCRYPTED_SHARES, active)[0]
    forged = forge(parties, unpack_entries(request, SHARE_MESSAGE_BYTES)[3])
    with pytest.raises(InvalidUpdate, match="share message of client 3 was altered"):
        parties.sides[0].respond(ENCRYPTED_SHARES, 0, 1, swapped(request, SHARE_MESSAGE_BYTES, with_entry(3, forged)))
    with pytest.raises(InvalidUpdate, match="have sent no shares"):
        parties.sides[0].respond(UPLOAD, 0, 1, pack_entries(dict.fromkeys(active, b"")))
    with pytest.raises(InvalidUpdate, match="no client has a share"):
        parties.sides[0].protect(np.zeros(3, np.int64), 0, 1)


def test_no_upload_before_shares_or_in_other_round():
    parties = Round()
    active = parties.until(SHARES)
    with pytest.raises(InvalidUpdate, match="no client has a share"):
        parties.sides[0].protect(np.zeros(3, np.int64), 0, 1)
    parties.step(SHARES, active)
    with pytest.raises(InvalidUpdate, match="has no keys of round 2"):
        parties.sides[0].protect(np.zeros(3, np.int64), 0, 2)
    with pytest.raises(InvalidUpdate, match="has no keys of round 1"):
        MaskingClients(6, 8, 4).respond(SHARES, 0, 1, b"")


def test_unknown_step_is_refused():
    parties = Round()
    parties.until(UNMASK)
    with pytest.raises(InvalidUpdate, match="has no step 'other'"):
        parties.sides[0].respond("other", 0, 1, b"")


# Replies that the server refuses.


@pytest.mark.parametrize(
    ("step", "content", "why"),
    [
        (KEYS, b"x" * (SIGNED_KEYS_BYTES - 1), "wrong length"),
        (KEYS, bytes(SIGNED_KEYS_BYTES), "canonical encoding"),
        (KEYS, b"", "wrong length"),
        (SHARES, b"x", "cannot be parsed"),
        (
            SHARES,
            bytes(SHARE_PAIR_BYTES) + pack_entries({1: bytes(SHARE_MESSAGE_BYTES)}),
            "a share to each other client",
        ),
        (UNMASK, pack_entries({1: bytes(ELEMENT_BYTES)}), "a share of each partner's secret"),
    ],
)
def test_invalid_reply_is_refused(step, content, why):
    parties = Round()
    parties.server.request(step, parties.until(step))
    with pytest.raises(InvalidUpdate, match=why):
        parties.server.handle_reply(step, 0, content)


def test_damaged_upload_is_refused():
    parties = Round()
    upload = parties.protect_all(updates(), parties.until(UPLOAD))[0]
    parties.server.check(upload, 0, 1)
    with pytest.raises(InvalidUpdate, match="truncated or altered"):
        parties.server.check(ProtectedUpdate(upload.scheme, upload.length, upload.payload[:-1]), 0, 1)
    with pytest.raises(InvalidUpdate, match="396 bytes for 100 values of 4 bytes each"):
        parties.server.check(make_envelope("masking", 100, verified_payload(upload)[:-4], header_of(0, 1)), 0, 1)
    with pytest.raises(InvalidUpdate, match="protected by 'plaintext'"):
        parties.server.check(PlaintextAggregation(FixedPointCodec(8.0, 20), 3).protect(np.zeros(1, np.int64)))
