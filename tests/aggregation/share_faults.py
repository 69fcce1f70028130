"""Clients that send faulty share messages, or false complaints about them."""

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


def send_unreadable_shares(side: MaskingClients, recipients_of: Mapping[int, Collection[int]], number: int = 1) -> None:
    """Let clients of ``side`` sign share messages in one round that these recipients cannot decrypt."""
    honest = side._share_message

    def faulty(state: MaskingState, client: int, recipient: int, shares: bytes) -> bytes:
        if state.number != number or recipient not in recipients_of.get(client, ()):
            return honest(state, client, recipient, shares)
        context = share_context(state.context, client, recipient)
        message = encrypt_classical(shares, ClassicalKey().public, context) + share_points(shares)
        return message + side._signers.sign(client, context + message)

    side._share_message = faulty  # type: ignore[method-assign]


def send_wrong_shares(
    side: MaskingClients, recipients_of: Mapping[int, Collection[int]], shows: bool, number: int = 1
) -> None:
    """Let clients of ``side`` send these recipients shares that do not match their points, and show them or not."""
    honest = side._share_message

    def faulty(state: MaskingState, client: int, recipient: int, shares: bytes) -> bytes:
        if state.number != number or recipient not in recipients_of.get(client, ()):
            return honest(state, client, recipient, shares)
        context, wrong = share_context(state.context, client, recipient), random_scalar() + random_scalar()
        if shows:
            state.sent_shares[recipient] = wrong
        key = state.advertised[recipient][:ELEMENT_BYTES]
        message = encrypt_classical(wrong, key, context) + share_points(shares)
        return message + side._signers.sign(client, context + message)

    side._share_message = faulty  # type: ignore[method-assign]


def complain_falsely(side: MaskingClients, recipient: int, senders: Collection[int], number: int = 1) -> None:
    """Let a client of ``side`` complain in one round about these senders, although it can decrypt their shares."""
    honest = side._read_shares

    def faulty(state: MaskingState, client: int, messages: dict[int, bytes]) -> bytes:
        reply = honest(state, client, messages)
        if (state.number, client) != (number, recipient):
            return reply
        for sender in senders:
            state.held_shares.pop(sender, None)
        complaints = {sender: complaint_message(state.context, sender, recipient) for sender in senders}
        return pack_entries({sender: side._signers.sign(recipient, text) for sender, text in complaints.items()})

    side._read_shares = faulty  # type: ignore[method-assign]


def values_in(upload: ProtectedUpdate) -> np.ndarray:
    """Return the masked values of an upload."""
    return np.frombuffer(verified_payload(upload)[:-SIGNATURE_BYTES], "<u4")
