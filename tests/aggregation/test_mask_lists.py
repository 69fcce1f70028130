"""A server that sends different lists of partners or dropouts to different clients."""

from __future__ import annotations

import numpy as np
import pytest

from ppml.aggregation.group import ELEMENT_BYTES
from ppml.aggregation.interfaces import UPLOAD
from ppml.aggregation.masks import (
    KEYS,
    UNMASK,
    pack_entries,
    pairwise_mask_sum,
    pairwise_public_key,
    self_mask,
    share_index,
    unpack_entries,
)
from ppml.aggregation.shamir import combine
from ppml.errors import InvalidUpdate

from .share_faults import values_in
from .test_masking import Round, updates

UNSIGNED = bytes(64)


class TwoLists:
    """The server names as few partners as possible to client 0, and all to the others; the last clients collude.

    It then reports to the clients of the longer list that others of the shorter one dropped out, so that each reveals
    shares of their pairwise keys, and of the self mask of client 0.
    """

    def __init__(self, clients: int, threshold: int, colluders: int) -> None:
        self.round = Round(clients, threshold)
        self.round.until(UPLOAD)
        self.threshold, self.clients = threshold, clients
        self.colluding = range(clients - colluders, clients)
        self.honest = range(1, clients - colluders)
        self.few = self.honest[: threshold - 1 - colluders]
        self.named = [0, *self.few, *self.colluding]
        self.update = updates(clients)[0]
        for client in (0, *self.honest):
            partners = self.named if client == 0 else range(clients)
            self.round.sides[client].respond(UPLOAD, client, 1, pack_entries(dict.fromkeys(partners, b"")))
        sides = self.round.sides
        self.uploads = {client: sides[client].protect(self.update, client, 1) for client in (0, *self.honest)}

    def opened(self) -> np.ndarray:
        """Return the server's reconstruction of the update of client 0."""
        colluders, sides = len(self.colluding), self.round.sides
        missing = dict.fromkeys(self.few, self.threshold - colluders)
        own: dict[int, bytes] = {}
        keys: dict[int, dict[int, bytes]] = {client: {} for client in self.few}
        for helper in self.honest:
            others = [client for client in self.few if client != helper]
            lost = sorted(others, key=lambda client: -missing[client])[: self.clients - self.threshold]
            given = self._revealed(helper, [client for client in range(self.clients) if client not in lost])
            own[share_index(helper)] = given[0]
            for client in lost:
                missing[client] -= 1
                keys[client][share_index(helper)] = given[client]
        own[share_index(0)] = self._revealed(0, self.named)[0]
        for client in self.colluding:
            held = sides[client]._states[client].held_shares
            own[share_index(client)] = held[0][:ELEMENT_BYTES]
            for other in self.few:
                keys[other][share_index(client)] = held[other][ELEMENT_BYTES:]
        server = self.round.server
        public = {0: pairwise_public_key(server._replies[KEYS][0])}
        values = values_in(self.uploads[0]) - self_mask(combine(own, self.threshold), len(self.update), 4)
        for client in self.named[1:]:
            secret = (
                sides[client]._states[client].pairwise_secret
                if client in self.colluding
                else combine(keys[client], self.threshold)
            )
            values = values + pairwise_mask_sum(secret, public, client, server._context, len(self.update), 4)
        return values.view("<i4")

    def _revealed(self, helper: int, present: list[int]) -> dict[int, bytes]:
        signatures = {client: self.uploads[client].payload[-64:] for client in self.uploads if client in present}
        requests = pack_entries({client: signatures.get(client, UNSIGNED) for client in present})
        return unpack_entries(self.round.sides[helper].respond(UNMASK, helper, 1, requests), ELEMENT_BYTES)


FEW = [(10, 6, 0), (10, 7, 2), (8, 6, 3)]
"""Clients, threshold, and colluders: fewer than ``2 threshold - clients``."""


@pytest.mark.parametrize(("clients", "threshold", "colluders"), FEW)
def test_client_reveals_no_shares_under_different_lists(clients, threshold, colluders):
    with pytest.raises(InvalidUpdate, match="not signed by client"):
        TwoLists(clients, threshold, colluders).opened()


@pytest.mark.parametrize(("clients", "threshold", "colluders"), FEW)
def test_few_colluders_reveal_update_without_signed_lists(clients, threshold, colluders):
    attack = TwoLists(clients, threshold, colluders)
    for side in attack.round.sides.values():
        side._verify = lambda client, signature, message: None
    assert np.array_equal(attack.opened(), attack.update)


def test_client_reported_as_dropout_reveals_no_shares():
    parties = Round()
    parties.until(UNMASK)
    requests = parties.server.request(UNMASK, range(1, 8))[1]
    with pytest.raises(InvalidUpdate, match="reported as a dropout"):
        parties.sides[0].respond(UNMASK, 0, 1, requests)


def test_client_without_upload_reveals_no_shares():
    parties = Round()
    active = parties.until(UPLOAD)
    for client, requests in parties.server.request(UPLOAD, active).items():
        parties.sides[client].respond(UPLOAD, client, 1, requests)
    with pytest.raises(InvalidUpdate, match="has protected no update of this round"):
        parties.sides[0].respond(UNMASK, 0, 1, pack_entries(dict.fromkeys(active, UNSIGNED)))


def test_upload_with_other_list_is_refused():
    parties = Round()
    active = parties.until(UPLOAD)
    parties.server.request(UPLOAD, active)
    parties.sides[0].respond(UPLOAD, 0, 1, pack_entries(dict.fromkeys(range(7), b"")))
    with pytest.raises(InvalidUpdate, match="list of partners lacks the client's signature"):
        parties.server.check(parties.sides[0].protect(updates()[0], 0, 1), 0, 1)


@pytest.mark.parametrize("step", [KEYS, UNMASK])
def test_too_long_reply_is_refused_unread(step):
    parties = Round()
    parties.until(UNMASK)
    parties.server.request(step, range(8), 2)
    with pytest.raises(InvalidUpdate, match="a reply of 50000000 bytes"):
        parties.server.handle_reply(step, 0, bytes(50_000_000))
