"""Copied, replaced, stale or malformed keys in secure aggregation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ppml.aggregation.group import ELEMENT_BYTES, base_multiple, derive_shared_key, random_scalar
from ppml.aggregation.hpke import ClassicalKey
from ppml.aggregation.identities import ClientSigners
from ppml.aggregation.masking_clients import MaskingClients
from ppml.aggregation.masks import (
    ENCRYPTED_SHARES,
    KEYS,
    SHARES,
    SIGNED_KEYS_BYTES,
    keys_message,
    pack_entries,
    pairwise_mask_sum,
    pairwise_public_key,
    parse_shares_reply,
    round_context,
    self_mask,
    self_mask_point,
    unpack_entries,
)
from ppml.aggregation.primitives import KEY_BYTES
from ppml.errors import InvalidUpdate

from .share_faults import values_in
from .test_masking import Round, check_uniform_words, swapped, updates, with_entry


def retold(parties: Round, change: Callable[[dict[int, bytes]], dict[int, bytes]]) -> bytes:
    """Return the server's list of keys, with changes."""
    requests = parties.server.request(SHARES, parties.step(KEYS, list(parties.sides)), 1)
    return swapped(requests[0], SIGNED_KEYS_BYTES, change)


def with_keys(parties: Round, client: int, messages: bytes, masks: bytes, own: bytes) -> bytes:
    """Return the signed list of foreign keys that a client advertises."""
    keys = messages + masks + own
    return keys + parties.sides[client]._signers.sign(client, keys_message(1, keys))


def new_point() -> bytes:
    return base_multiple(random_scalar())


MESSAGES, MASKS, OWN = 0, 1, 2
COPIES = {
    "the mask key of another": [(1, MESSAGES), (2, MASKS), (1, OWN)],
    "the own point of another": [(1, MESSAGES), (1, MASKS), (2, OWN)],
    "the own point of another as a mask key": [(1, MESSAGES), (2, OWN), (1, OWN)],
    "the encryption key of another": [(2, MESSAGES), (1, MASKS), (1, OWN)],
    "one point for both": [(1, MESSAGES), (1, MASKS), (1, MASKS)],
}
"""Client and kind of each key that client 1 advertises."""


def check_keys_are_refused(parties: Round, fake: bytes, why: str) -> None:
    """Check that neither the server nor a client accepts these keys of client 1."""
    with pytest.raises(InvalidUpdate, match=why):
        parties.server.handle_reply(KEYS, 1, fake)
    # A colluding server relays the keys.
    requests = parties.server.request(SHARES, range(8))[0]
    requests = swapped(requests, SIGNED_KEYS_BYTES, with_entry(1, fake))
    for client in (0, 2, 3, 4, 5, 6, 7):
        with pytest.raises(InvalidUpdate, match=why):
            parties.sides[client].respond(SHARES, client, 1, requests)


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_repeated_key_is_refused(copy):
    parties = Round()
    parties.until(SHARES)
    keys = [
        (said[:KEY_BYTES], pairwise_public_key(said), self_mask_point(said))
        for said in (parties.server._replies[KEYS][client] for client in range(3))
    ]
    fake = with_keys(parties, 1, *(keys[client][kind] for client, kind in copy))
    check_keys_are_refused(parties, fake, "a key is advertised twice")


ONE = ClassicalKey().public
OTHER_FORMS = {
    "the bit that is not read": (0, (int.from_bytes(ONE, "little") + 2**255).to_bytes(KEY_BYTES, "little")),
    "the prime added": (0, (9 + 2**255 - 19).to_bytes(KEY_BYTES, "little")),
    "a key of small order": (0, bytes(KEY_BYTES)),
    "no point": (1, bytes(ELEMENT_BYTES)),
    "the neutral point": (1, (1).to_bytes(ELEMENT_BYTES, "little")),
    "a point of small order": (2, (2**255 - 20).to_bytes(ELEMENT_BYTES, "little")),
}


@pytest.mark.parametrize(("part", "content"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_noncanonical_or_small_order_key_is_refused(part, content):
    parties = Round()
    parties.until(SHARES)
    keys = [ClassicalKey().public, new_point(), new_point()]
    keys[part] = content
    check_keys_are_refused(parties, with_keys(parties, 1, *keys), "canonical encoding")


class Colluding(Round):
    """Clients 0 and 1 advertise the pairwise keys of 3 and 4 with their own encryption keys; no party refuses them.

    In a round of 5 where a mask is derived from the two keys alone, the masks that client 2 has in common with 0 and
    with 3 are the same, of different signs, and so are those with 1 and with 4: all are gone from its upload.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, unchecked: bool = True) -> None:
        super().__init__(5)
        monkeypatch.setattr("ppml.aggregation.masking_clients.check_distinct_keys", lambda publics: None)
        monkeypatch.setattr("ppml.aggregation.masking_server.check_distinct_keys", lambda publics: None)
        if unchecked:
            monkeypatch.setattr("ppml.aggregation.masking_server.is_valid_sharing", lambda points, threshold: True)
        requests = self.server.request(KEYS, range(5), 1)
        said = {client: side.respond(KEYS, client, 1, requests[client]) for client, side in self.sides.items()}
        for bad, copied in ((0, 3), (1, 4)):
            state = self.sides[bad]._states[bad]
            fake = with_keys(
                self,
                bad,
                state.encryption_key.public,
                pairwise_public_key(said[copied]),
                base_multiple(state.self_mask_secret),
            )
            state.public_keys = lambda keys=fake[:-64]: keys
            said[bad] = fake
        for client, content in said.items():
            self.server.handle_reply(KEYS, client, content)

    def opened(self, update: np.ndarray) -> np.ndarray:
        """Return the server's reconstruction of client 2's update, given its self mask, as after unmasking."""
        active = self.split_secrets(list(range(5)))
        upload = self.protect_all([update] * 5, active)[2]
        masked = values_in(upload)
        return (masked - self_mask(self.sides[2]._states[2].self_mask_secret, len(update), 4)).view("<i4")


def test_copied_keys_remove_no_mask(monkeypatch):
    update = updates(5)[2]
    assert not (Colluding(monkeypatch).opened(update) == update).any()


def test_client_with_copied_key_has_no_valid_sharing(monkeypatch):
    with pytest.raises(InvalidUpdate, match="not of the secrets of its public keys"):
        Colluding(monkeypatch, unchecked=False).opened(updates(5)[2])


def test_masks_without_client_numbers_are_detected(monkeypatch):
    monkeypatch.setattr(
        "ppml.aggregation.masks.derive_shared_key",
        lambda secret, public, context: derive_shared_key(secret, public, b""),
    )
    update = updates(5)[2]
    assert np.array_equal(Colluding(monkeypatch).opened(update), update)


def test_keys_replaced_by_server_are_refused():
    parties = Round()
    keys = ClassicalKey().public + new_point() + new_point()
    server_s = ClientSigners(lambda client, public: None)

    def replaced(entries: dict[int, bytes]) -> dict[int, bytes]:
        return {**entries, 1: keys + server_s.sign(1, keys_message(1, keys))}

    requests = retold(parties, replaced)
    for client in (0, 2, 3, 4, 5, 6, 7):
        with pytest.raises(InvalidUpdate, match="not signed by client 1"):
            parties.sides[client].respond(SHARES, client, 1, requests)


def test_register_operator_can_replace_keys():
    """The threat statement: the operator of the register, which the server is not."""
    parties = Round()
    mine = ClientSigners(lambda client, public: parties.register._keys.update({client: public}))

    def replaced(entries: dict[int, bytes]) -> dict[int, bytes]:
        keys = ClassicalKey().public + new_point() + new_point()
        return {**entries, 1: keys + mine.sign(1, keys_message(1, keys))}

    assert parties.sides[0].respond(SHARES, 0, 1, retold(parties, replaced))


def test_keys_of_other_round_are_refused():
    parties = Round()
    before = parties.server.request(SHARES, parties.step(KEYS, list(range(8)), 1), 1)[0]
    requests = parties.server.request(SHARES, parties.step(KEYS, list(range(8)), 2), 2)[0]
    stale = swapped(requests, SIGNED_KEYS_BYTES, with_entry(1, unpack_entries(before, SIGNED_KEYS_BYTES)[1]))
    with pytest.raises(InvalidUpdate, match="not signed by client 1"):
        parties.sides[0].respond(SHARES, 0, 2, stale)
    # The server excludes such a client before the others refuse its keys.
    with pytest.raises(InvalidUpdate, match="not signed by client 1"):
        parties.server.handle_reply(KEYS, 1, unpack_entries(before, SIGNED_KEYS_BYTES)[1])


def test_unregistered_client_is_excluded():
    parties = Round()
    parties.step(KEYS, list(range(7)))
    stranger = MaskingClients(6, 8, 4).respond(KEYS, 7, 1, b"")
    with pytest.raises(InvalidUpdate, match="no key is registered for client 7"):
        parties.server.handle_reply(KEYS, 7, stranger)


def test_clients_with_different_key_lists_upload_nothing():
    """Client 0, with only correct keys, does not learn of client 7."""
    parties = Round()
    requests = parties.server.request(SHARES, parties.step(KEYS, list(range(8)), 1), 1)
    requests[0] = swapped(requests[0], SIGNED_KEYS_BYTES, lambda entries: {other: entries[other] for other in range(7)})
    messages = {client: side.respond(SHARES, client, 1, requests[client]) for client, side in parties.sides.items()}
    for_1 = pack_entries({other: parse_shares_reply(messages[other])[1][1] for other in (0, 2, 3, 4, 5, 6, 7)})
    with pytest.raises(InvalidUpdate, match=r"client 0 was altered, .* received different keys"):
        parties.sides[1].respond(ENCRYPTED_SHARES, 1, 1, for_1)
    with pytest.raises(InvalidUpdate, match="no client has a share"):
        parties.sides[1].protect(np.zeros(3, np.int64), 1, 1)


def test_masks_under_different_key_lists_do_not_cancel():
    one, other = random_scalar(), random_scalar()
    publics = {0: base_multiple(one), 1: base_multiple(other)}
    lists = [
        round_context(1, {0: b"a", 1: b"b"}),
        round_context(1, {0: b"a", 1: b"c"}),
        round_context(2, {0: b"a", 1: b"b"}),
    ]

    def left(context: bytes, about_other: bytes) -> np.ndarray:
        return pairwise_mask_sum(one, publics, 0, context, 100, 4) + pairwise_mask_sum(
            other, publics, 1, about_other, 100, 4
        )

    assert not left(lists[0], lists[0]).any()
    for different in lists[1:]:
        check_uniform_words(left(lists[0], different))
