"""Clients that send invalid shares of their secrets, or reveal wrong shares of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ppml.aggregation.group import ELEMENT_BYTES, random_scalar
from ppml.aggregation.masking_clients import MaskingClients
from ppml.aggregation.masks import share_index
from ppml.aggregation.shamir import split
from ppml.errors import InvalidUpdate

from .test_mask_disputes import Tolerant, check_sum
from .test_masking import NOBODY, Round, swapped, updates, with_entry

Division = Callable[[bytes, Sequence[int], int], dict[int, bytes]]


def reveal_wrong_share(side: MaskingClients) -> None:
    """Let a client reveal a wrong share of client 7."""
    honest = side._reveal_shares
    side._reveal_shares = lambda *given: swapped(honest(*given), ELEMENT_BYTES, with_entry(7, random_scalar()))


@pytest.mark.parametrize("lost", [NOBODY, {7}], ids=["of an own mask", "of the masks of a lost client"])
@pytest.mark.parametrize("liars", [{0}, {6}, {0, 1}, {2, 5}, {0, 1, 2}], ids=str)
def test_wrong_share_is_detected_and_others_unmask_sum(lost, liars):
    parties = Tolerant()
    for liar in liars:
        reveal_wrong_share(parties.sides[liar])
    active = [client for client in range(8) if client not in lost]
    if len(active) - len(liars) >= parties.threshold:
        check_sum(parties, active, lost)
    else:
        with pytest.raises(InvalidUpdate, match="clients unmask the sum, 6 are needed"):
            parties.run(updates(), lost=lost)
    assert parties.excluded == dict.fromkeys(
        liars, "unmask: the client reveals another share than client 7 has sent it"
    )


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


def divide_badly(monkeypatch, parties: Round, badly: Division, secrets: Sequence[str]) -> None:
    """Let client 3 divide some of its secrets badly."""

    def division(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
        state = parties.sides[3]._states[3]
        return (badly if secret in [getattr(state, name) for name in secrets] else split)(secret, places, threshold)

    monkeypatch.setattr("ppml.aggregation.masking_clients.split", division)


SELF, PAIRWISE = "self_mask_secret", "pairwise_secret"


@pytest.mark.parametrize("secrets", [[SELF], [PAIRWISE], [SELF, PAIRWISE]], ids=["own mask", "pairwise masks", "both"])
@pytest.mark.parametrize("badly", BAD_DIVISIONS)
def test_client_with_invalid_sharing_is_excluded(badly, secrets, monkeypatch):
    parties = Tolerant()
    divide_badly(monkeypatch, parties, badly, secrets)
    check_sum(parties, [client for client in range(8) if client != 3])
    assert list(parties.excluded) == [3] and "not of the secrets of its public keys" in parties.excluded[3]


@pytest.mark.parametrize("badly", BAD_DIVISIONS)
def test_invalid_sharing_spoils_sum_without_check(badly, monkeypatch):
    monkeypatch.setattr("ppml.aggregation.masking_server.is_valid_sharing", lambda points, threshold: True)
    parties = Round()
    divide_badly(monkeypatch, parties, badly, [SELF, PAIRWISE])
    # The last client and the client itself reveal the deciding shares.
    total, _ = parties.run(updates(), late=[0, 1])
    assert not np.array_equal(total, sum(updates()))
