"""Clients that break the protocol of masks by what they write in letters, or say of letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ppml.aggregation.envelope import verified_payload
from ppml.aggregation.group import ELEMENT_BYTES, random_scalar
from ppml.aggregation.hpke import ClassicalKey, encrypt_classical
from ppml.aggregation.identities import SIGNATURE_BYTES
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.masking_clients import MaskingClients, MaskingState
from ppml.aggregation.masks import complaint_message, pack_entries, share_context, share_points


def unreadable(side: MaskingClients, readers_of: Mapping[int, Collection[int]], number: int = 1) -> None:
    """Have clients of ``side`` sign letters in one round that these readers cannot open; the others can."""
    honest = side._share_message

    def letter(turn: MaskingState, client: int, other: int, shares: bytes) -> bytes:
        if turn.number != number or other not in readers_of.get(client, ()):
            return honest(turn, client, other, shares)
        about = share_context(turn.context, client, other)
        message = encrypt_classical(shares, ClassicalKey().public, about) + share_points(shares)
        return message + side._signers.sign(client, about + message)

    side._share_message = letter  # type: ignore[method-assign]


def with_other_shares(
    side: MaskingClients, readers_of: Mapping[int, Collection[int]], shows: bool, number: int = 1
) -> None:
    """Have clients of ``side`` send these readers shares that are not those of their points, and show them or not."""
    honest = side._share_message

    def letter(turn: MaskingState, client: int, other: int, shares: bytes) -> bytes:
        if turn.number != number or other not in readers_of.get(client, ()):
            return honest(turn, client, other, shares)
        about, wrong = share_context(turn.context, client, other), random_scalar() + random_scalar()
        if shows:
            turn.sent_shares[other] = wrong
        message = encrypt_classical(wrong, turn.advertised[other][:ELEMENT_BYTES], about) + share_points(shares)
        return message + side._signers.sign(client, about + message)

    side._share_message = letter  # type: ignore[method-assign]


def complaining(side: MaskingClients, reader: int, senders: Collection[int], number: int = 1) -> None:
    """Have a client of ``side`` complain in one round about these senders, whose letters it can open."""
    honest = side._read_shares

    def read(turn: MaskingState, client: int, letters: dict[int, bytes]) -> bytes:
        said = honest(turn, client, letters)
        if (turn.number, client) != (number, reader):
            return said
        for sender in senders:
            turn.held_shares.pop(sender, None)
        signed = {
            sender: side._signers.sign(reader, complaint_message(turn.context, sender, reader)) for sender in senders
        }
        return pack_entries(signed)

    side._read_shares = read  # type: ignore[method-assign]


def values_in(upload: ProtectedUpdate) -> np.ndarray:
    """Return the masked values of an upload."""
    return np.frombuffer(verified_payload(upload)[:-SIGNATURE_BYTES], "<u4")
