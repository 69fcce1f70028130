"""Keys of pairwise masks that are copied, replaced, stale or malformed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ppml.aggregation.group import BYTES, agreed_key, fresh_scalar, point_of
from ppml.aggregation.hpke import ClassicalKey, encrypted
from ppml.aggregation.identities import Signers
from ppml.aggregation.interfaces import BadUpdate
from ppml.aggregation.masking_clients import MaskingClients
from ppml.aggregation.masks import (
    KEYS,
    LETTER,
    LETTERS,
    PUBLISHED,
    SHARES,
    TWO,
    bound_to,
    letter_to,
    mask_key,
    own_mask,
    own_point,
    packed,
    pairwise,
    points_and_letters,
    signed_keys,
    unpacked,
)
from ppml.aggregation.primitives import KEY

from .letters import values_in
from .test_masking import Round, check_uniform_words, swapped, updates, with_entry


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
