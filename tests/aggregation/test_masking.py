"""Pairwise masks: exact sums, lost clients recovered, and nothing else opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.aggregation.capacity import masking_threshold
from ppml.aggregation.checksum import MARK, ORIGIN, content_of, origin_of, sealed_of
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.group import BYTES, ORDER, agreed_key, encoded, fresh_scalar, point_of
from ppml.aggregation.hpke import ClassicalKey, encrypted
from ppml.aggregation.identities import SIGNATURE, Register, Signers, verify_by
from ppml.aggregation.masking_clients import MaskingClients
from ppml.aggregation.masking_server import MaskingServer
from ppml.aggregation.masks import (
    DISPUTES,
    KEYS,
    LETTER,
    LETTERS,
    PUBLISHED,
    SHARES,
    TWO,
    UNMASK,
    bound_to,
    letter_to,
    mask_key,
    own_mask,
    own_point,
    packed,
    pairwise,
    place_of,
    points_and_letters,
    signed_keys,
    unpacked,
)
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation.protocol import SEAL, BadUpdate, Sealed
from ppml.aggregation.shamir import divided, together
from ppml.aggregation.streams import KEY

from .letters import values_in
from .test_additive import check_uniform

NOBODY: frozenset[int] = frozenset()


class Round:
    """A round among clients, each with a side of its own, as in processes of their own."""

    def __init__(self, clients: int = 8, threshold: int | None = None, width: int = 4) -> None:
        self.threshold = masking_threshold(threshold, clients)
        self.register = Register()
        self.server = MaskingServer(self.threshold, width, verify_by(self.register))
        self.sides = {
            client: MaskingClients(self.threshold, clients, width, self.register) for client in range(clients)
        }

    def step(self, step: str, clients: Sequence[int], number: int = 1, lost: Collection[int] = NOBODY) -> list[int]:
        told = self.server.tell(step, clients, number)
        there = [client for client in clients if client not in lost]
        for client in there:
            if client in told:
                self.server.hear(step, client, self.sides[client].respond(step, client, number, told[client]))
        return there

    def divided(self, clients: Sequence[int], number: int = 1, lost: Collection[int] = NOBODY) -> list[int]:
        """Take clients that have published keys up to the upload; return those that are there."""
        there = self.step(SHARES, clients, number, lost)
        return self.step(DISPUTES, self.step(LETTERS, there, number), number)

    def sealed(self, updates: Sequence[np.ndarray], clients: Sequence[int], number: int = 1) -> dict[int, Sealed]:
        told = self.server.tell(SEAL, clients, number)
        for client in clients:
            self.sides[client].respond(SEAL, client, number, told[client])
        uploads = {client: self.sides[client].seal(updates[client], client, number) for client in clients}
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
        """Return the sum, and of whom it is; some are lost before they divide secrets, upload, or unmask."""
        there = self.step(KEYS, list(self.sides), number)
        there = self.divided(there, number, lost=early)
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
    for gone in ((client, (client + 3) % 8) for client in range(8)):
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
        there = parties.divided(parties.step(KEYS, [0, 1, 2], number), number)
        uploads = parties.sealed(values, there, number)
        parties.step(UNMASK, there, number)
        assert np.array_equal(parties.sides[0].unseal(parties.server.add(list(uploads.values()))), sum(values))
        masked.append(values_in(uploads[0]))
    # The difference of two uploads of one update would be 0 under the same masks.
    check_uniform_words(masked[0] - masked[1])


def check_uniform_words(values: np.ndarray) -> None:
    assert len(np.unique(values)) > 0.99 * len(values) and abs(values.mean() / 2**32 - 0.5) < 0.2


def test_an_upload_takes_what_it_takes_in_the_clear():
    parties = Round()
    there = parties.divided(parties.step(KEYS, list(range(8))))
    assert {len(one.payload) for one in parties.sealed(updates(), there).values()} == {400 + MARK + ORIGIN + SIGNATURE}


# Who sees what.


def test_a_masked_upload_says_nothing_of_the_update():
    for value in (0, 2**23):
        parties = Round(3)
        there = parties.divided(parties.step(KEYS, [0, 1, 2]))
        uploads = parties.sealed([np.full(100_000, value)] * 3, there)
        for one in uploads.values():
            check_uniform(values_in(one))


def opened_by(parties: Round, victim: int, upload: Sealed, colluders: Sequence[int]) -> np.ndarray:
    """Return what the server and some clients make of another's upload, from all that they have."""
    turns = {client: parties.sides[client]._turns[client] for client in colluders}
    shares = {place_of(client): turn.held[victim] for client, turn in turns.items()}
    own = together({place: both[:BYTES] for place, both in shares.items()}, parties.threshold)
    key = together({place: both[BYTES:] for place, both in shares.items()}, parties.threshold)
    turn = next(iter(turns.values()))
    values = values_in(upload)
    masks = own_mask(own, len(values), 4) + pairwise(key, turn.masks_of, victim, turn.about, len(values), 4)
    return (values - masks).view("<i4")


def test_fewer_clients_than_the_threshold_open_nothing_with_the_server_and_as_many_open_an_update():
    values, parties = updates(), Round()
    there = parties.divided(parties.step(KEYS, list(range(8))))
    uploads = parties.sealed(values, there)
    assert np.array_equal(opened_by(parties, 0, uploads[0], [1, 2, 3, 4, 5, 6]), values[0])
    with pytest.raises(ValueError, match="5 shares, 6 are needed"):
        opened_by(parties, 0, uploads[0], [1, 2, 3, 4, 5])


def test_five_shares_of_a_threshold_of_six_fit_every_secret():
    """Whatever the secret was, there is a polynomial through the shares that are known."""
    secret, other = fresh_scalar(), fresh_scalar()
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
                above, below = above * (place - other) % ORDER, below * (at - other) % ORDER
        value += share * above * pow(below, -1, ORDER)
    return encoded(value)


# What a client refuses.


def ready(clients: int = 8) -> tuple[Round, dict[int, bytes]]:
    """Return a round whose clients have sealed, and what each is told to unmask."""
    parties = Round(clients)
    there = parties.divided(parties.step(KEYS, list(range(clients))))
    parties.sealed(updates(clients), there)
    return parties, parties.server.tell(UNMASK, there)


def test_shares_are_given_once_so_that_nobody_is_both_present_and_lost():
    parties, told = ready()
    parties.sides[0].respond(UNMASK, 0, 1, told[0])
    with pytest.raises(BadUpdate, match="it has given its shares of this round already"):
        parties.sides[0].respond(UNMASK, 0, 1, parties.server.tell(UNMASK, range(7))[0])


def test_clients_that_give_shares_twice_let_the_server_open_an_update():
    """The fault that the test before guards against: with both kinds of shares the server opens what it likes."""
    values = updates()
    parties = Round()
    there = parties.divided(parties.step(KEYS, list(range(8))))
    uploads = parties.sealed(values, there)
    found: dict[str, dict[int, bytes]] = {"present": {}, "lost": {}}
    for claim, present in (("present", range(8)), ("lost", range(1, 8))):
        for client in range(1, 7):
            turn = parties.sides[client]._turns[client]
            turn.unmasked = False
            given = parties.sides[client].respond(UNMASK, client, 1, parties.server.tell(UNMASK, present)[client])
            found[claim][place_of(client)] = unpacked(given, BYTES)[0]
    own, key = (together(shares, 6) for shares in found.values())
    turn = parties.sides[1]._turns[1]
    masked = values_in(uploads[0])
    opened = masked - own_mask(own, 100, 4) - pairwise(key, turn.masks_of, 0, turn.about, 100, 4)
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
        parties.sides[0].respond(UNMASK, 0, 1, packed(dict.fromkeys(present, bytes(64))))


def swapped(content: bytes, size: int, change: Callable[[dict[int, bytes]], dict[int, bytes]]) -> bytes:
    return packed(change(unpacked(content, size)))


def with_entry(client: int, value: bytes) -> Callable[[dict[int, bytes]], dict[int, bytes]]:
    return lambda entries: {**entries, client: value}


KEY_FAULTS = {
    "its own keys are others": (with_entry(0, bytes(PUBLISHED)), "not those that were sent"),
    "it is left out": (lambda entries: {client: key for client, key in entries.items() if client}, "not those that"),
    "one client is there twice": (lambda entries: {**entries, 7: entries[6]}, "is published twice"),
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
    there = parties.divided(parties.step(KEYS, [0, 1, 2]))
    first = values_in(parties.sealed(values, there)[0])
    parties.sides[0]._turns[0].sealed = False
    second = values_in(parties.sides[0].seal(values[0] + 5, 0, 1))
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
    told = parties.server.tell(LETTERS, there)
    with pytest.raises(BadUpdate, match="the shares that client 3 sent cannot be read"):
        parties.sides[0].respond(LETTERS, 0, 1, swapped(told[0], LETTER, with_entry(3, bytes(LETTER))))
    with pytest.raises(BadUpdate, match="to have masks in common"):
        parties.sides[0].respond(SEAL, 0, 1, packed(dict.fromkeys(there, b"")))
    with pytest.raises(BadUpdate, match="nobody has a share"):
        parties.sides[0].seal(np.zeros(3, np.int64), 0, 1)


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
        (KEYS, b"x" * (PUBLISHED - 1), "no keys"),
        (KEYS, bytes(PUBLISHED), "not in the form"),
        (KEYS, b"", "no keys"),
        (SHARES, b"x", "cannot be read"),
        (SHARES, bytes(TWO) + packed({1: bytes(LETTER)}), "a share to each of the others"),
        (UNMASK, packed({1: bytes(BYTES)}), "a share of each client's secret"),
    ],
)
def test_what_a_client_says_amiss_is_refused(step, content, why):
    parties = Round()
    there = parties.step(KEYS, list(range(8)))
    if step != KEYS:
        there = parties.divided(there) if step == UNMASK else parties.step(SHARES, there)
    if step == UNMASK:
        parties.sealed(updates(), there)
        parties.server.tell(UNMASK, there)
    with pytest.raises(BadUpdate, match=why):
        parties.server.hear(step, 0, content)


# Keys that are somebody else's.


def retold(parties: Round, change: Callable[[dict[int, bytes]], dict[int, bytes]]) -> bytes:
    """Return what the server passes on of the keys of a round, changed."""
    told = parties.server.tell(SHARES, parties.step(KEYS, list(parties.sides)), 1)
    return swapped(told[0], PUBLISHED, change)


def with_keys(parties: Round, client: int, letters: bytes, masks: bytes, own: bytes) -> bytes:
    """Return what a client publishes that has other keys than those that it has drawn, and signs them."""
    keys = letters + masks + own
    return keys + parties.sides[client]._signers.sign(client, signed_keys(1, keys))


def new_point() -> bytes:
    return point_of(fresh_scalar())


COPIES = {
    "the mask key of another": lambda mine, other: (mine[:KEY], mask_key(other), own_point(mine)),
    "the own point of another": lambda mine, other: (mine[:KEY], mask_key(mine), own_point(other)),
    "the own point of another as a mask key": lambda mine, other: (mine[:KEY], own_point(other), own_point(mine)),
    "the letter key of another": lambda mine, other: (other[:KEY], mask_key(mine), own_point(mine)),
    "one point for both": lambda mine, other: (mine[:KEY], mask_key(mine), mask_key(mine)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_key_that_is_published_twice_is_refused_by_the_server_and_by_every_client(copy):
    parties = Round()
    there = parties.step(KEYS, list(range(8)))
    heard = parties.server._heard[KEYS]
    fake = with_keys(parties, 1, *copy(heard[1], heard[2]))
    with pytest.raises(BadUpdate, match="a key of masks is published twice"):
        parties.server.hear(KEYS, 1, fake)
    # A server that colludes passes it on.
    told = swapped(parties.server.tell(SHARES, there)[0], PUBLISHED, with_entry(1, fake))
    for client in (0, 2, 3, 4, 5, 6, 7):
        with pytest.raises(BadUpdate, match="a key of masks is published twice"):
            parties.sides[client].respond(SHARES, client, 1, told)


ONE = ClassicalKey().public
OTHER_FORMS = {
    "the bit that is not read": (0, (int.from_bytes(ONE, "little") + 2**255).to_bytes(KEY, "little")),
    "the prime added": (0, (9 + 2**255 - 19).to_bytes(KEY, "little")),
    "a key of small order": (0, bytes(KEY)),
    "no point": (1, bytes(BYTES)),
    "the neutral point": (1, (1).to_bytes(BYTES, "little")),
    "a point of small order": (2, (2**255 - 20).to_bytes(BYTES, "little")),
}


@pytest.mark.parametrize(("part", "content"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_a_key_in_another_form_or_of_small_order_is_refused_by_the_server_and_by_every_client(part, content):
    parties = Round()
    there = parties.step(KEYS, list(range(8)))
    keys = [ClassicalKey().public, new_point(), new_point()]
    keys[part] = content
    fake = with_keys(parties, 1, *keys)
    with pytest.raises(BadUpdate, match="not in the form that its generation gives it"):
        parties.server.hear(KEYS, 1, fake)
    told = swapped(parties.server.tell(SHARES, there)[0], PUBLISHED, with_entry(1, fake))
    with pytest.raises(BadUpdate, match="not in the form that its generation gives it"):
        parties.sides[0].respond(SHARES, 0, 1, told)


class Colluding(Round):
    """Clients 0 and 1 publish the mask keys of 3 and 4, and keep their own letter keys; nobody refuses them.

    In a round of 5 where a mask is derived from the two keys alone, the masks that client 2 has in common with 0 and
    with 3 are the same, of different signs, and so are those with 1 and with 4: all are gone from its upload.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, unchecked: bool = True) -> None:
        super().__init__(5)
        monkeypatch.setattr("ppml.aggregation.masking_clients.refuse_repeated", lambda publics: None)
        monkeypatch.setattr("ppml.aggregation.masking_server.refuse_repeated", lambda publics: None)
        if unchecked:
            monkeypatch.setattr("ppml.aggregation.masking_server.are_of_one_secret", lambda points, threshold: True)
        told = self.server.tell(KEYS, range(5), 1)
        said = {client: side.respond(KEYS, client, 1, told[client]) for client, side in self.sides.items()}
        for bad, copied in ((0, 3), (1, 4)):
            turn = self.sides[bad]._turns[bad]
            fake = with_keys(self, bad, turn.for_letters.public, mask_key(said[copied]), point_of(turn.own))
            turn.keys = lambda keys=fake[:-64]: keys
            said[bad] = fake
        for client, content in said.items():
            self.server.hear(KEYS, client, content)

    def opened(self, update: np.ndarray) -> np.ndarray:
        """Return what the server makes of the upload of client 2, knowing its own mask, as it does at the end."""
        there = self.divided(list(range(5)))
        upload = self.sealed([update] * 5, there)[2]
        masked = values_in(upload)
        return (masked - own_mask(self.sides[2]._turns[2].own, len(update), 4)).view("<i4")


def test_two_clients_that_copy_keys_take_no_mask_away_even_where_nobody_refuses_them(monkeypatch):
    update = updates(5)[2]
    assert not (Colluding(monkeypatch).opened(update) == update).any()


def test_a_client_with_the_key_of_another_has_no_shares_of_its_secret(monkeypatch):
    with pytest.raises(BadUpdate, match="the shares that it sends are not of the secrets that its keys are of"):
        Colluding(monkeypatch, unchecked=False).opened(updates(5)[2])


def test_masks_that_do_not_name_their_clients_are_caught(monkeypatch):
    monkeypatch.setattr(
        "ppml.aggregation.masks.agreed_key", lambda secret, public, about: agreed_key(secret, public, b"")
    )
    update = updates(5)[2]
    assert np.array_equal(Colluding(monkeypatch).opened(update), update)


def test_keys_that_the_server_puts_in_the_place_of_a_client_s_are_refused_by_every_other():
    parties = Round()
    keys = ClassicalKey().public + new_point() + new_point()
    server_s = Signers(lambda client, public: None)

    def replaced(entries: dict[int, bytes]) -> dict[int, bytes]:
        return {**entries, 1: keys + server_s.sign(1, signed_keys(1, keys))}

    told = retold(parties, replaced)
    for client in (0, 2, 3, 4, 5, 6, 7):
        with pytest.raises(BadUpdate, match="it is not signed by client 1"):
            parties.sides[client].respond(SHARES, client, 1, told)


def test_who_may_register_keys_can_replace_them():
    """What is said of the threat: the party that keeps the register, which the server has no part in."""
    parties = Round()
    mine = Signers(lambda client, public: parties.register._keys.update({client: public}))

    def replaced(entries: dict[int, bytes]) -> dict[int, bytes]:
        keys = ClassicalKey().public + new_point() + new_point()
        return {**entries, 1: keys + mine.sign(1, signed_keys(1, keys))}

    assert parties.sides[0].respond(SHARES, 0, 1, retold(parties, replaced))


def test_keys_of_another_round_are_refused():
    parties = Round()
    before = parties.server.tell(SHARES, parties.step(KEYS, list(range(8)), 1), 1)[0]
    told = parties.server.tell(SHARES, parties.step(KEYS, list(range(8)), 2), 2)[0]
    stale = swapped(told, PUBLISHED, with_entry(1, unpacked(before, PUBLISHED)[1]))
    with pytest.raises(BadUpdate, match="it is not signed by client 1"):
        parties.sides[0].respond(SHARES, 0, 2, stale)
    # The server leaves such a client out before the others refuse.
    with pytest.raises(BadUpdate, match="it is not signed by client 1"):
        parties.server.hear(KEYS, 1, unpacked(before, PUBLISHED)[1])


def test_a_client_that_is_not_registered_is_left_out():
    parties = Round()
    parties.step(KEYS, list(range(7)))
    stranger = MaskingClients(6, 8, 4).respond(KEYS, 7, 1, b"")
    with pytest.raises(BadUpdate, match="no key is registered for client 7"):
        parties.server.hear(KEYS, 7, stranger)


def test_clients_that_are_shown_different_keys_read_no_letter_of_each_other_and_seal_nothing():
    """Client 7 is kept from client 0, all of whose keys are right."""
    parties = Round()
    told = parties.server.tell(SHARES, parties.step(KEYS, list(range(8)), 1), 1)
    told[0] = swapped(told[0], PUBLISHED, lambda entries: {other: entries[other] for other in range(7)})
    letters = {client: side.respond(SHARES, client, 1, told[client]) for client, side in parties.sides.items()}
    for_1 = packed({other: points_and_letters(letters[other])[1][1] for other in (0, 2, 3, 4, 5, 6, 7)})
    with pytest.raises(BadUpdate, match=r"client 0 sent cannot be read: .* shown different keys"):
        parties.sides[1].respond(LETTERS, 1, 1, for_1)
    with pytest.raises(BadUpdate, match="nobody has a share"):
        parties.sides[1].seal(np.zeros(3, np.int64), 1, 1)


def test_masks_of_clients_that_were_shown_different_keys_do_not_cancel():
    one, other = fresh_scalar(), fresh_scalar()
    publics = {0: point_of(one), 1: point_of(other)}
    lists = [bound_to(1, {0: b"a", 1: b"b"}), bound_to(1, {0: b"a", 1: b"c"}), bound_to(2, {0: b"a", 1: b"b"})]

    def left(about: bytes, about_other: bytes) -> np.ndarray:
        return pairwise(one, publics, 0, about, 100, 4) + pairwise(other, publics, 1, about_other, 100, 4)

    assert not left(lists[0], lists[0]).any()
    for different in lists[1:]:
        check_uniform_words(left(lists[0], different))


def test_a_letter_that_the_server_writes_is_refused():
    parties = Round()
    there = parties.step(SHARES, parties.step(KEYS, list(range(8))))
    told, turn = parties.server.tell(LETTERS, there), parties.sides[0]._turns[0]
    about = letter_to(turn.about, 3, 0)
    message = encrypted(bytes(TWO), turn.for_letters.public, about) + bytes(TWO)
    fake = message + Signers(lambda client, public: None).sign(3, about + message)
    with pytest.raises(BadUpdate, match="the shares that client 3 sent cannot be read"):
        parties.sides[0].respond(LETTERS, 0, 1, swapped(told[0], LETTER, with_entry(3, fake)))


@pytest.mark.parametrize("lost", [NOBODY, {7}], ids=["of an own mask", "of the masks of a lost client"])
@pytest.mark.parametrize("liars", [{0}, {6}, {0, 1}, {2, 5}, {0, 1, 2}], ids=str)
def test_a_client_that_gives_a_wrong_share_is_named_and_the_others_open_the_sum_if_they_are_enough(lost, liars):
    parties, values = Round(), updates()
    uploads = parties.sealed(values, parties.divided(parties.step(KEYS, list(range(8)))))
    there = [client for client in range(8) if client not in lost]
    told = parties.server.tell(UNMASK, there, 1)
    for client in there:
        given = parties.sides[client].respond(UNMASK, client, 1, told[client])
        if client in liars:
            wrong = swapped(given, BYTES, with_entry(7, fresh_scalar()))
            with pytest.raises(BadUpdate, match="it gives another share than client 7 has sent it"):
                parties.server.hear(UNMASK, client, wrong)
        else:
            parties.server.hear(UNMASK, client, given)
    present = [uploads[client] for client in there]
    if len(there) - len(liars) >= parties.threshold:
        total = parties.sides[0].unseal(parties.server.add(present))
        assert np.array_equal(total, sum(values[client] for client in there))
    else:
        with pytest.raises(BadUpdate, match="clients unmask it, 6 are needed"):
            parties.server.add(present)


def test_a_damaged_upload_or_one_of_another_length_is_refused():
    parties = Round()
    there = parties.divided(parties.step(KEYS, list(range(8))))
    upload = parties.sealed(updates(), there)[0]
    parties.server.check(upload, 0, 1)
    with pytest.raises(BadUpdate, match="cut off or altered"):
        parties.server.check(Sealed(upload.scheme, upload.length, upload.payload[:-1]), 0, 1)
    with pytest.raises(BadUpdate, match="396 bytes for 100 values of 4 bytes each"):
        parties.server.check(sealed_of("masking", 100, content_of(upload)[:-4], origin_of(0, 1)), 0, 1)
    with pytest.raises(BadUpdate, match="sealed by 'plaintext'"):
        parties.server.check(PlaintextAggregation(FixedPointCodec(8.0, 20), 3).seal(np.zeros(1, np.int64)))


def of_another_secret(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return divided(fresh_scalar(), places, threshold)


def of_no_secret(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return {place: fresh_scalar() for place in places}


def of_one_more(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return divided(secret, places, threshold + 1)


def with_one_wrong(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return {**divided(secret, places, threshold), places[-1]: fresh_scalar()}


def with_its_own_wrong(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return {**divided(secret, places, threshold), place_of(3): fresh_scalar()}


BAD_DIVISIONS = [of_another_secret, of_no_secret, of_one_more, with_one_wrong, with_its_own_wrong]


@pytest.mark.parametrize("which", ["the own mask's", "the pairwise masks'", "both"])
@pytest.mark.parametrize("badly", BAD_DIVISIONS)
def test_a_client_that_divides_its_secrets_so_that_shares_do_not_fit_is_left_out_before_it_seals(
    badly, which, monkeypatch
):
    parties, values = Round(), updates()
    there = parties.step(KEYS, list(range(8)))
    told, turn = parties.server.tell(SHARES, there), parties.sides[3]._turns[3]
    bad = {"the own mask's": [turn.own], "the pairwise masks'": [turn.for_masks]}.get(which, [turn.own, turn.for_masks])

    def division(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
        return (badly if secret in bad else divided)(secret, places, threshold)

    monkeypatch.setattr("ppml.aggregation.masking_clients.divided", division)
    for client in there:
        said = parties.sides[client].respond(SHARES, client, 1, told[client])
        if client == 3:
            with pytest.raises(BadUpdate, match="the shares that it sends are not of the secrets that its keys are of"):
                parties.server.hear(SHARES, client, said)
        else:
            parties.server.hear(SHARES, client, said)
    rest = [client for client in there if client != 3]
    rest = parties.step(DISPUTES, parties.step(LETTERS, rest))
    uploads = parties.sealed(values, rest)
    parties.step(UNMASK, rest)
    total = parties.sides[0].unseal(parties.server.add(list(uploads.values())))
    assert np.array_equal(total, sum(values[client] for client in rest))


@pytest.mark.parametrize("badly", BAD_DIVISIONS)
def test_without_that_test_a_client_that_divides_its_secrets_badly_spoils_the_sum(badly, monkeypatch):
    parties, values = Round(), updates()
    there = parties.step(KEYS, list(range(8)))
    told = parties.server.tell(SHARES, there)
    monkeypatch.setattr("ppml.aggregation.masking_server.are_of_one_secret", lambda points, threshold: True)
    for client in there:
        with monkeypatch.context() as patch:
            if client == 3:
                patch.setattr("ppml.aggregation.masking_clients.divided", badly)
            parties.server.hear(SHARES, client, parties.sides[client].respond(SHARES, client, 1, told[client]))
    there = parties.step(DISPUTES, parties.step(LETTERS, there))
    uploads = parties.sealed(values, there)
    # Those give their shares that make the difference: the last, and the client itself.
    parties.step(UNMASK, there, lost=[0, 1])
    total = parties.sides[0].unseal(parties.server.add(list(uploads.values())))
    assert not np.array_equal(total, sum(values))


# Secrets, divided.


@given(st.integers(0, ORDER - 1), st.integers(1, 6), st.integers(0, 4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_as_many_shares_as_the_threshold_give_any_secret_back(value, threshold, more):
    secret = value.to_bytes(BYTES, "little")
    shares = divided(secret, range(1, threshold + more + 1), threshold)
    for chosen in combinations(shares, threshold):
        assert together({place: shares[place] for place in chosen}, threshold) == secret


def test_a_secret_is_divided_anew_each_time():
    secret = fresh_scalar()
    assert divided(secret, [1, 2, 3], 2) != divided(secret, [1, 2, 3], 2)


@pytest.mark.parametrize(
    ("secret", "places", "threshold"),
    [
        (ORDER.to_bytes(BYTES, "little"), [1, 2], 2),
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
    assert all(pow(base, ORDER - 1, ORDER) == 1 for base in (2, 3, 5, 7, 11, 13))
