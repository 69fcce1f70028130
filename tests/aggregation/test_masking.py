"""Pairwise masks: exact sums, lost clients recovered, and nothing else opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.aggregation.capacity import masking_threshold
from ppml.aggregation.checksum import MARK, ORIGIN, content_of, origin_of, sealed_of
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.masking import (
    KEYS,
    PUBLISHED,
    SHARES,
    UNMASK,
    MaskingClients,
    MaskingServer,
    packed,
    pairwise,
    place_of,
    unpacked,
)
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation.protocol import SEAL, BadUpdate, Sealed
from ppml.aggregation.shamir import BYTES, PRIME, divided, fresh_secret, together
from ppml.aggregation.streams import stream

from .test_additive import check_uniform

NOBODY: frozenset[int] = frozenset()


class Round:
    """A round among clients, each with a side of its own, as in processes of their own."""

    def __init__(self, clients: int = 8, threshold: int | None = None, width: int = 4) -> None:
        self.threshold = masking_threshold(threshold, clients)
        self.server = MaskingServer(self.threshold, width)
        self.sides = {client: MaskingClients(self.threshold, clients, width) for client in range(clients)}

    def step(self, step: str, clients: Sequence[int], number: int = 1, lost: Collection[int] = NOBODY) -> list[int]:
        told = self.server.tell(step, clients)
        there = [client for client in clients if client not in lost]
        for client in there:
            self.server.hear(step, client, self.sides[client].respond(step, client, number, told[client]))
        return there

    def sealed(self, updates: Sequence[np.ndarray], clients: Sequence[int], number: int = 1) -> dict[int, Sealed]:
        told = self.server.tell(SEAL, clients)
        for client in clients:
            self.sides[client].respond(SEAL, client, number, told[client])
        return {client: self.sides[client].seal(updates[client], client, number) for client in clients}

    def run(
        self,
        updates: Sequence[np.ndarray],
        number: int = 1,
        early: Collection[int] = NOBODY,
        lost: Collection[int] = NOBODY,
        late: Collection[int] = NOBODY,
    ) -> tuple[np.ndarray, list[int]]:
        """Return the sum, and of whom it is; some are lost before they divide secrets, upload, or unmask."""
        there = self.step(KEYS, list(self.sides), number)
        there = self.step(SHARES, there, number, lost=early)
        uploads = self.sealed(updates, there, number)
        there = [client for client in there if client not in lost]
        self.step(UNMASK, there, number, lost=late)
        total = self.server.add([uploads[client] for client in there])
        return self.sides[there[0]].unseal(total), there


def updates(clients: int = 8, length: int = 100) -> list[np.ndarray]:
    rng = np.random.default_rng(clients)
    codec = FixedPointCodec(8.0, 20)
    values = [codec.encode(rng.normal(0, 3, length)) for _ in range(clients)]
    values[0][:], values[1][:] = codec.encode(np.array([8.0, -8.0]))
    return values


# The same bits.


@pytest.mark.parametrize("clients", [2, 3, 8, 20])
@pytest.mark.parametrize("width", [4, 8])
def test_sums_are_those_in_the_clear_bit_for_bit(clients, width):
    values = updates(clients)
    clear = PlaintextAggregation(FixedPointCodec(8.0, 20), clients)
    found, there = Round(clients, width=width).run(values)
    assert there == list(range(clients)) and found.dtype == np.int64
    assert np.array_equal(found, clear.unseal(clear.add([clear.seal(value) for value in values])))


@pytest.mark.parametrize("moment", ["early", "lost", "late"])
def test_two_of_eight_clients_that_are_lost_are_recovered_from_whenever_and_whoever_they_are(moment):
    values = updates()
    for gone in combinations(range(8), 2):
        found, there = Round().run(values, **{moment: gone})
        assert there == [client for client in range(8) if client not in gone or moment == "late"]
        assert np.array_equal(found, sum(values[client] for client in there))


def test_clients_that_are_lost_at_different_moments_are_recovered_from():
    values = updates(12)
    found, there = Round(12).run(values, early=[0], lost=[5], late=[11])
    assert there == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert np.array_equal(found, sum(values[client] for client in there))


@pytest.mark.parametrize(
    ("moment", "why"),
    [
        ("early", "5 clients take part in its masks, 6 are needed"),
        ("lost", "5 clients take part in its masks, 6 are needed"),
        ("late", "5 clients unmask it, 6 are needed"),
    ],
)
def test_with_three_of_eight_lost_no_sum_is_opened(moment, why):
    with pytest.raises(BadUpdate, match=why):
        Round().run(updates(), **{moment: [1, 2, 3]})


def test_every_round_has_masks_of_its_own():
    values, parties = updates(3), Round(3)
    masked = []
    for number in (1, 2):
        there = parties.step(SHARES, parties.step(KEYS, [0, 1, 2], number), number)
        uploads = parties.sealed(values, there, number)
        parties.step(UNMASK, there, number)
        assert np.array_equal(parties.sides[0].unseal(parties.server.add(list(uploads.values()))), sum(values))
        masked.append(np.frombuffer(content_of(uploads[0]), "<u4"))
    # The difference of two uploads of one update would be 0 under the same masks.
    check_uniform_words(masked[0] - masked[1])


def check_uniform_words(values: np.ndarray) -> None:
    assert len(np.unique(values)) > 0.99 * len(values) and abs(values.mean() / 2**32 - 0.5) < 0.2


def test_an_upload_takes_what_it_takes_in_the_clear():
    parties = Round()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    assert {len(one.payload) for one in parties.sealed(updates(), there).values()} == {400 + MARK + ORIGIN}


# Who sees what.


def test_a_masked_upload_says_nothing_of_the_update():
    for value in (0, 2**23):
        parties = Round(3)
        there = parties.step(SHARES, parties.step(KEYS, [0, 1, 2]))
        uploads = parties.sealed([np.full(100_000, value)] * 3, there)
        for one in uploads.values():
            check_uniform(np.frombuffer(content_of(one), "<u4"))


def opened_by(parties: Round, victim: int, upload: Sealed, colluders: Sequence[int]) -> np.ndarray:
    """Return what the server and some clients make of another's upload, from all that they have."""
    turns = {client: parties.sides[client]._turns[client] for client in colluders}
    shares = {client: parties.sides[client]._shares_of(turn, client, victim) for client, turn in turns.items()}
    own = together({place_of(client): own for client, (own, _) in shares.items()}, parties.threshold)
    key = together({place_of(client): key for client, (_, key) in shares.items()}, parties.threshold)
    turn = next(iter(turns.values()))
    values = np.frombuffer(content_of(upload), "<u4")
    secret = X25519PrivateKey.from_private_bytes(key)
    masks = stream(own, len(values), 4) + pairwise(secret, turn.masks_of, victim, len(values), 4)
    return (values - masks).view("<i4")


def test_fewer_clients_than_the_threshold_open_nothing_with_the_server_and_as_many_open_an_update():
    values, parties = updates(), Round()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    uploads = parties.sealed(values, there)
    assert np.array_equal(opened_by(parties, 0, uploads[0], [1, 2, 3, 4, 5, 6]), values[0])
    with pytest.raises(ValueError, match="5 shares, 6 are needed"):
        opened_by(parties, 0, uploads[0], [1, 2, 3, 4, 5])


def test_five_shares_of_a_threshold_of_six_fit_every_secret():
    """Whatever the secret was, there is a polynomial through the shares that are known."""
    secret, other = fresh_secret(), fresh_secret()
    shares = divided(secret, range(1, 9), 6)
    known = {place: shares[place] for place in range(1, 6)}
    for wanted in (secret, other):
        # The sixth share that makes them say what is wanted.
        point = sixth_share(known, int.from_bytes(wanted, "little"), 6)
        assert together({**known, 6: point}, 6) == wanted


def sixth_share(known: dict[int, bytes], wanted: int, place: int) -> bytes:
    """Return the share at ``place`` of the polynomial through ``known`` that is ``wanted`` at 0."""
    points = {0: wanted, **{at: int.from_bytes(share, "little") for at, share in known.items()}}
    value = 0
    for at, share in points.items():
        above, below = 1, 1
        for other in points:
            if other != at:
                above, below = above * (place - other) % PRIME, below * (at - other) % PRIME
        value += share * above * pow(below, -1, PRIME)
    return (value % PRIME).to_bytes(BYTES, "little")


# What a client refuses.


def ready(clients: int = 8) -> tuple[Round, dict[int, bytes]]:
    """Return a round whose clients have sealed, and what each is told to unmask."""
    parties = Round(clients)
    there = parties.step(SHARES, parties.step(KEYS, list(range(clients))))
    parties.sealed(updates(clients), there)
    return parties, parties.server.tell(UNMASK, there)


def test_shares_are_given_once_so_that_nobody_is_both_present_and_lost():
    parties, told = ready()
    parties.sides[0].respond(UNMASK, 0, 1, told[0])
    with pytest.raises(BadUpdate, match="it has given its shares of this round already"):
        parties.sides[0].respond(UNMASK, 0, 1, packed(dict.fromkeys(range(1, 8), b"")))


def test_clients_that_give_shares_twice_let_the_server_open_an_update():
    """The fault that the test before guards against: with both kinds of shares the server opens what it likes."""
    values = updates()
    parties = Round()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    uploads = parties.sealed(values, there)
    found: dict[str, dict[int, bytes]] = {"present": {}, "lost": {}}
    for claim, present in (("present", range(8)), ("lost", range(1, 8))):
        for client in range(1, 7):
            turn = parties.sides[client]._turns[client]
            turn.unmasked = False
            given = parties.sides[client].respond(UNMASK, client, 1, packed(dict.fromkeys(present, b"")))
            found[claim][place_of(client)] = unpacked(given, BYTES)[0]
    own, key = (together(shares, 6) for shares in found.values())
    masks_of = parties.sides[1]._turns[1].masks_of
    masked = np.frombuffer(content_of(uploads[0]), "<u4")
    secret = X25519PrivateKey.from_private_bytes(key)
    opened = masked - stream(own, 100, 4) - pairwise(secret, masks_of, 0, 100, 4)
    assert np.array_equal(opened.view("<i4"), values[0])


@pytest.mark.parametrize(
    ("present", "why"),
    [
        (range(5), "a sum of 5 clients is not opened, of 6 it would be"),
        ([0], "a sum of 1 clients is not opened"),
        ([*range(7), 99], "a sum of 8 clients is not opened"),
    ],
)
def test_a_sum_of_few_or_of_strangers_is_not_unmasked(present, why):
    parties, _ = ready()
    with pytest.raises(BadUpdate, match=why):
        parties.sides[0].respond(UNMASK, 0, 1, packed(dict.fromkeys(present, b"")))


def swapped(content: bytes, size: int, change: Callable[[dict[int, bytes]], dict[int, bytes]]) -> bytes:
    return packed(change(unpacked(content, size)))


def with_entry(client: int, value: bytes) -> Callable[[dict[int, bytes]], dict[int, bytes]]:
    return lambda entries: {**entries, client: value}


KEY_FAULTS = {
    "its own keys are others": (with_entry(0, bytes(PUBLISHED)), "not those that were sent"),
    "it is left out": (lambda entries: {client: key for client, key in entries.items() if client}, "not those that"),
    "one client is there twice": (lambda entries: {**entries, 7: entries[6]}, "not those that were sent"),
    "too few": (
        lambda entries: {client: entries[client] for client in range(5)},
        "5 clients take part, 6 to 8 are needed",
    ),
    "too many": (lambda entries: {**entries, 8: b"k" * PUBLISHED}, "9 clients take part, 6 to 8 are needed"),
}


@pytest.mark.parametrize(("change", "why"), KEY_FAULTS.values(), ids=KEY_FAULTS)
def test_keys_that_a_client_can_tell_to_be_wrong_are_refused(change, why):
    parties = Round()
    told = parties.server.tell(SHARES, parties.step(KEYS, list(range(8))))
    with pytest.raises(BadUpdate, match=why):
        parties.sides[0].respond(SHARES, 0, 1, swapped(told[0], PUBLISHED, change))


def test_secrets_are_divided_once_a_round():
    parties = Round()
    there = parties.step(KEYS, list(range(8)))
    parties.step(SHARES, there)
    with pytest.raises(BadUpdate, match="divided already"):
        parties.sides[0].respond(SHARES, 0, 1, parties.server.tell(SHARES, there)[0])


def test_one_update_is_sealed_in_a_round():
    parties, _ = ready()
    with pytest.raises(BadUpdate, match="it has sealed an update of this round already"):
        parties.sides[0].seal(np.zeros(3, np.int64), 0, 1)


def test_two_updates_under_the_same_masks_would_show_their_difference():
    values, parties = updates(3), Round(3)
    there = parties.step(SHARES, parties.step(KEYS, [0, 1, 2]))
    first = np.frombuffer(content_of(parties.sealed(values, there)[0]), "<u4")
    parties.sides[0]._turns[0].sealed = False
    second = np.frombuffer(content_of(parties.sides[0].seal(values[0] + 5, 0, 1)), "<u4")
    assert (second - first).tolist() == [5] * 100


@pytest.mark.parametrize("number", [1, 2])
def test_a_client_has_one_turn_in_a_round(number):
    parties, _ = ready()
    parties.sides[0].respond(KEYS, 0, 2, b"")
    with pytest.raises(BadUpdate, match=f"it has had its turn in round {number}"):
        parties.sides[0].respond(KEYS, 0, number, b"")


def test_letters_that_cannot_be_read_are_refused_before_anything_is_sealed():
    parties = Round()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    told = parties.server.tell(SEAL, there)
    with pytest.raises(BadUpdate, match="the shares that client 3 sent cannot be read"):
        parties.sides[0].respond(SEAL, 0, 1, swapped(told[0], 80, with_entry(3, bytes(80))))


def test_nothing_is_sealed_before_others_have_shares_or_in_another_round():
    parties = Round()
    there = parties.step(KEYS, list(range(8)))
    with pytest.raises(BadUpdate, match="nobody has a share"):
        parties.sides[0].seal(np.zeros(3, np.int64), 0, 1)
    parties.step(SHARES, there)
    with pytest.raises(BadUpdate, match="it has no keys of round 2"):
        parties.sides[0].seal(np.zeros(3, np.int64), 0, 2)
    with pytest.raises(BadUpdate, match="it has no keys of round 1"):
        MaskingClients(6, 8, 4).respond(SHARES, 0, 1, b"")


def test_an_unknown_step_is_refused():
    parties, _ = ready()
    with pytest.raises(BadUpdate, match="there is no step 'other'"):
        parties.sides[0].respond("other", 0, 1, b"")


# What the server refuses.


@pytest.mark.parametrize(
    ("step", "content", "why"),
    [
        (KEYS, b"x" * 79, "no keys"),
        (KEYS, bytes(PUBLISHED), "no keys"),
        (KEYS, b"", "no keys"),
        (SHARES, b"x", "cannot be read"),
        (SHARES, packed({1: bytes(80)}), "a share to each of the others"),
        (UNMASK, packed({1: bytes(BYTES)}), "a share of each client's secret"),
    ],
)
def test_what_a_client_says_amiss_is_refused(step, content, why):
    parties = Round()
    there = parties.step(KEYS, list(range(8)))
    if step != KEYS:
        there = parties.step(SHARES, there)
    if step == UNMASK:
        parties.sealed(updates(), there)
        parties.server.tell(UNMASK, there)
    with pytest.raises(BadUpdate, match=why):
        parties.server.hear(step, 0, content)


def test_keys_of_another_client_are_refused():
    parties = Round()
    parties.step(KEYS, list(range(8)))
    with pytest.raises(BadUpdate, match="those of another"):
        parties.server.hear(KEYS, 0, parties.server._heard[KEYS][1])


def with_wrong_shares(lost: Collection[int], liars: Collection[int]) -> tuple[Round, list[Sealed]]:
    """Return a round of eight before its sum, in which some give wrong shares of what client 7 has divided."""
    parties = Round()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    uploads = parties.sealed(updates(), there)
    there = [client for client in there if client not in lost]
    parties.step(UNMASK, there)
    for liar in liars:
        told = unpacked(parties.server._heard[UNMASK][liar], BYTES)
        parties.server.hear(UNMASK, liar, packed({**told, 7: bytes([liar]) * BYTES}))
    return parties, [uploads[client] for client in there]


@pytest.mark.parametrize(
    ("lost", "liars"),
    [(NOBODY, {0}), (NOBODY, {6}), (NOBODY, {0, 1}), (NOBODY, {2, 5}), ({7}, {0}), ({7}, {6})],
    ids=str,
)
def test_wrong_shares_of_no_more_than_can_be_spared_change_nothing(lost, liars):
    parties, uploads = with_wrong_shares(lost, liars)
    expected = sum(updates()[client] for client in range(8) if client not in lost)
    assert np.array_equal(parties.sides[0].unseal(parties.server.add(uploads)), expected)


@pytest.mark.parametrize(
    ("lost", "liars"),
    [(NOBODY, {0, 1, 2}), ({7}, {0, 1})],
    ids=["of an own mask", "of the masks of a lost client"],
)
def test_more_wrong_shares_are_seen_before_the_sum_is_used(lost, liars):
    parties, uploads = with_wrong_shares(lost, liars)
    with pytest.raises(BadUpdate, match="what the masks of client 7 come from do not fit together"):
        parties.server.add(uploads)


def test_a_damaged_upload_or_one_of_another_length_is_refused():
    parties = Round()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    upload = parties.sealed(updates(), there)[0]
    parties.server.check(upload, 0, 1)
    with pytest.raises(BadUpdate, match="cut off or altered"):
        parties.server.check(Sealed(upload.scheme, upload.length, upload.payload[:-1]), 0, 1)
    with pytest.raises(BadUpdate, match="396 bytes for 100 values of 4 bytes each"):
        parties.server.check(sealed_of("masking", 100, content_of(upload)[:-4], origin_of(0, 1)), 0, 1)
    with pytest.raises(BadUpdate, match="sealed by 'plaintext'"):
        parties.server.check(PlaintextAggregation(FixedPointCodec(8.0, 20), 3).seal(np.zeros(1, np.int64)))


def test_secrets_that_were_divided_so_that_shares_do_not_fit_stop_the_sum(monkeypatch):
    parties = Round()
    there = parties.step(KEYS, list(range(8)))

    def unfit(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
        return {place: bytes([place]) * BYTES for place in places}

    told = parties.server.tell(SHARES, there)
    for client in there:
        with monkeypatch.context() as patch:
            if client == 3:
                patch.setattr("ppml.aggregation.masking.divided", unfit)
            parties.server.hear(SHARES, client, parties.sides[client].respond(SHARES, client, 1, told[client]))
    uploads = parties.sealed(updates(), there)
    parties.step(UNMASK, there)
    with pytest.raises(BadUpdate, match="what the masks of client 3 come from do not fit together"):
        parties.server.add(list(uploads.values()))


# Secrets, divided.


@given(st.integers(0, PRIME - 1), st.integers(1, 6), st.integers(0, 4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_as_many_shares_as_the_threshold_give_any_secret_back(value, threshold, more):
    secret = value.to_bytes(BYTES, "little")
    shares = divided(secret, range(1, threshold + more + 1), threshold)
    for chosen in combinations(shares, threshold):
        assert together({place: shares[place] for place in chosen}, threshold) == secret


def test_a_secret_is_divided_anew_each_time():
    secret = fresh_secret()
    assert divided(secret, [1, 2, 3], 2) != divided(secret, [1, 2, 3], 2)


@pytest.mark.parametrize(
    ("secret", "places", "threshold"),
    [
        (PRIME.to_bytes(BYTES, "little"), [1, 2], 2),
        (b"short", [1, 2], 2),
        (bytes(BYTES), [0, 1], 2),
        (bytes(BYTES), [1, 1], 2),
        (bytes(BYTES), [1, 2], 3),
        (bytes(BYTES), [1, 2], 0),
    ],
)
def test_a_secret_that_cannot_be_divided_is_refused(secret, places, threshold):
    with pytest.raises(ValueError):
        divided(secret, places, threshold)


def test_the_field_is_a_field():
    """By Fermat's little theorem to several bases, as far as that goes."""
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11, 13))
