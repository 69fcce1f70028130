"""A server under pairwise masks that names other clients of the sum, or of the losses, to some than to others."""

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

from .letters import values_in
from .test_masking import Round, updates

UNSIGNED = bytes(64)


class TwoLists:
    """The server names to client 0 as few partners as it can, and all to the others; the last clients collude.

    It then tells the clients of the longer list that others of the shorter one are lost, so that each gives shares of
    their keys, and of the own mask of client 0.
    """

    def __init__(self, clients: int, threshold: int, colluders: int) -> None:
        self.round = Round(clients, threshold)
        self.round.divided(self.round.step(KEYS, list(range(clients))))
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
        """Return what the server makes of the upload of client 0."""
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
        told = pack_entries({client: signatures.get(client, UNSIGNED) for client in present})
        return unpack_entries(self.round.sides[helper].respond(UNMASK, helper, 1, told), ELEMENT_BYTES)


FEW = [(10, 6, 0), (10, 7, 2), (8, 6, 3)]
"""Clients, threshold, and colluders: fewer than ``2 threshold - clients``."""


@pytest.mark.parametrize(("clients", "threshold", "colluders"), FEW)
def test_a_client_gives_no_shares_where_another_has_signed_another_list(clients, threshold, colluders):
    with pytest.raises(InvalidUpdate, match="not signed by client"):
        TwoLists(clients, threshold, colluders).opened()


@pytest.mark.parametrize(("clients", "threshold", "colluders"), FEW)
def test_without_that_rule_few_colluders_or_none_open_an_update(clients, threshold, colluders):
    attack = TwoLists(clients, threshold, colluders)
    for side in attack.round.sides.values():
        side._verify = lambda client, signature, message: None
    assert np.array_equal(attack.opened(), attack.update)


def ready() -> Round:
    parties = Round()
    parties.sealed(updates(), parties.divided(parties.step(KEYS, list(range(8)))))
    return parties


def test_a_client_that_is_said_to_be_lost_gives_nothing():
    parties = ready()
    told = parties.server.request(UNMASK, range(1, 8))[1]
    with pytest.raises(InvalidUpdate, match="reported as a dropout"):
        parties.sides[0].respond(UNMASK, 0, 1, told)


def test_a_client_that_has_sealed_nothing_gives_nothing():
    parties = Round()
    there = parties.divided(parties.step(KEYS, list(range(8))))
    for client, told in parties.server.request(UPLOAD, there).items():
        parties.sides[client].respond(UPLOAD, client, 1, told)
    with pytest.raises(InvalidUpdate, match="has protected no update of this round"):
        parties.sides[0].respond(UNMASK, 0, 1, pack_entries(dict.fromkeys(there, UNSIGNED)))


def test_an_upload_of_another_list_is_refused():
    parties = Round()
    there = parties.divided(parties.step(KEYS, list(range(8))))
    parties.server.request(UPLOAD, there)
    parties.sides[0].respond(UPLOAD, 0, 1, pack_entries(dict.fromkeys(range(7), b"")))
    with pytest.raises(InvalidUpdate, match="list of partners lacks the client's signature"):
        parties.server.check(parties.sides[0].protect(updates()[0], 0, 1), 0, 1)


@pytest.mark.parametrize("step", [KEYS, UNMASK])
def test_an_answer_that_is_longer_than_any_is_refused_before_it_is_read(step):
    parties = ready()
    parties.server.request(step, range(8), 2)
    with pytest.raises(InvalidUpdate, match="a reply of 50000000 bytes"):
        parties.server.handle_reply(step, 0, bytes(50_000_000))
