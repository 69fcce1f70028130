"""Clients that send invalid shares of their secrets, or reveal wrong shares of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ppml.aggregation.group import ELEMENT_BYTES, random_scalar
from ppml.aggregation.masks import (
    DISPUTES,
    ENCRYPTED_SHARES,
    KEYS,
    SHARES,
    UNMASK,
    share_index,
)
from ppml.aggregation.shamir import split
from ppml.errors import InvalidUpdate

from .test_masking import NOBODY, Round, swapped, updates, with_entry


@pytest.mark.parametrize("lost", [NOBODY, {7}], ids=["of an own mask", "of the masks of a lost client"])
@pytest.mark.parametrize("liars", [{0}, {6}, {0, 1}, {2, 5}, {0, 1, 2}], ids=str)
def test_wrong_share_is_detected_and_others_unmask_sum(lost, liars):
    parties, values = Round(), updates()
    uploads = parties.protect_all(values, parties.split_secrets(parties.step(KEYS, list(range(8)))))
    active = [client for client in range(8) if client not in lost]
    requests = parties.server.request(UNMASK, active, 1)
    for client in active:
        given = parties.sides[client].respond(UNMASK, client, 1, requests[client])
        if client in liars:
            wrong = swapped(given, ELEMENT_BYTES, with_entry(7, random_scalar()))
            with pytest.raises(InvalidUpdate, match="reveals another share than client 7 has sent it"):
                parties.server.handle_reply(UNMASK, client, wrong)
        else:
            parties.server.handle_reply(UNMASK, client, given)
    present = [uploads[client] for client in active]
    if len(active) - len(liars) >= parties.threshold:
        total = parties.sides[0].reveal(parties.server.add(present))
        assert np.array_equal(total, sum(values[client] for client in active))
    else:
        with pytest.raises(InvalidUpdate, match="clients unmask the sum, 6 are needed"):
            parties.server.add(present)


def of_another_secret(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return split(random_scalar(), places, threshold)


def of_no_secret(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return {place: random_scalar() for place in places}


def of_one_more(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return split(secret, places, threshold + 1)


def with_one_wrong(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return {**split(secret, places, threshold), places[-1]: random_scalar()}


def with_its_own_wrong(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    return {**split(secret, places, threshold), share_index(3): random_scalar()}


BAD_DIVISIONS = [of_another_secret, of_no_secret, of_one_more, with_one_wrong, with_its_own_wrong]


@pytest.mark.parametrize("which", ["the own mask's", "the pairwise masks'", "both"])
@pytest.mark.parametrize("badly", BAD_DIVISIONS)
def test_client_with_invalid_sharing_is_excluded(badly, which, monkeypatch):
    parties, values = Round(), updates()
    active = parties.step(KEYS, list(range(8)))
    requests, state = parties.server.request(SHARES, active), parties.sides[3]._states[3]
    bad = {"the own mask's": [state.self_mask_secret], "the pairwise masks'": [state.pairwise_secret]}.get(
        which, [state.self_mask_secret, state.pairwise_secret]
    )

    def division(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
        return (badly if secret in bad else split)(secret, places, threshold)

    monkeypatch.setattr("ppml.aggregation.masking_clients.split", division)
    for client in active:
        said = parties.sides[client].respond(SHARES, client, 1, requests[client])
        if client == 3:
            with pytest.raises(InvalidUpdate, match="not of the secrets of its public keys"):
                parties.server.handle_reply(SHARES, client, said)
        else:
            parties.server.handle_reply(SHARES, client, said)
    rest = [client for client in active if client != 3]
    rest = parties.step(DISPUTES, parties.step(ENCRYPTED_SHARES, rest))
    uploads = parties.protect_all(values, rest)
    parties.step(UNMASK, rest)
    total = parties.sides[0].reveal(parties.server.add(list(uploads.values())))
    assert np.array_equal(total, sum(values[client] for client in rest))


@pytest.mark.parametrize("badly", BAD_DIVISIONS)
def test_invalid_sharing_spoils_sum_without_check(badly, monkeypatch):
    parties, values = Round(), updates()
    active = parties.step(KEYS, list(range(8)))
    requests = parties.server.request(SHARES, active)
    monkeypatch.setattr("ppml.aggregation.masking_server.is_valid_sharing", lambda points, threshold: True)
    for client in active:
        with monkeypatch.context() as patch:
            if client == 3:
                patch.setattr("ppml.aggregation.masking_clients.split", badly)
            parties.server.handle_reply(
                SHARES, client, parties.sides[client].respond(SHARES, client, 1, requests[client])
            )
    active = parties.step(DISPUTES, parties.step(ENCRYPTED_SHARES, active))
    uploads = parties.protect_all(values, active)
    # The last client and the client itself reveal the deciding shares.
    parties.step(UNMASK, active, lost=[0, 1])
    total = parties.sides[0].reveal(parties.server.add(list(uploads.values())))
    assert not np.array_equal(total, sum(values))
