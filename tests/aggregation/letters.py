"""Clients that break the protocol of masks by what they write in letters, or say of letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ppml.aggregation.envelope import content_of
from ppml.aggregation.group import BYTES, fresh_scalar
from ppml.aggregation.hpke import ClassicalKey, encrypted
from ppml.aggregation.identities import SIGNATURE
from ppml.aggregation.interfaces import Sealed
from ppml.aggregation.masking_clients import MaskingClients, Turn
from ppml.aggregation.masks import complaint, letter_to, packed, points_of


def unreadable(side: MaskingClients, readers_of: Mapping[int, Collection[int]], number: int = 1) -> None:
    """Have clients of ``side`` sign letters in one round that these readers cannot open; the others can."""
    honest = side._letter

    def letter(turn: Turn, client: int, other: int, shares: bytes) -> bytes:
        if turn.number != number or other not in readers_of.get(client, ()):
            return honest(turn, client, other, shares)
        about = letter_to(turn.about, client, other)
        message = encrypted(shares, ClassicalKey().public, about) + points_of(shares)
        return message + side._signers.sign(client, about + message)

    side._letter = letter  # type: ignore[method-assign]


def with_other_shares(
    side: MaskingClients, readers_of: Mapping[int, Collection[int]], shows: bool, number: int = 1
) -> None:
    """Have clients of ``side`` send these readers shares that are not those of their points, and show them or not."""
    honest = side._letter

    def letter(turn: Turn, client: int, other: int, shares: bytes) -> bytes:
        if turn.number != number or other not in readers_of.get(client, ()):
            return honest(turn, client, other, shares)
        about, wrong = letter_to(turn.about, client, other), fresh_scalar() + fresh_scalar()
        if shows:
            turn.sent[other] = wrong
        message = encrypted(wrong, turn.publics[other][:BYTES], about) + points_of(shares)
        return message + side._signers.sign(client, about + message)

    side._letter = letter  # type: ignore[method-assign]


def complaining(side: MaskingClients, reader: int, senders: Collection[int], number: int = 1) -> None:
    """Have a client of ``side`` complain in one round about these senders, whose letters it can open."""
    honest = side._read

    def read(turn: Turn, client: int, letters: dict[int, bytes]) -> bytes:
        said = honest(turn, client, letters)
        if (turn.number, client) != (number, reader):
            return said
        for sender in senders:
            turn.held.pop(sender, None)
        signed = {sender: side._signers.sign(reader, complaint(turn.about, sender, reader)) for sender in senders}
        return packed(signed)

    side._read = read  # type: ignore[method-assign]


def values_in(upload: Sealed) -> np.ndarray:
    """Return the masked values of an upload."""
    return np.frombuffer(content_of(upload)[:-SIGNATURE], "<u4")
