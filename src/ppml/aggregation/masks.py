"""What the clients and the server have in common under pairwise masks: the messages of a round, and the masks."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from ppml.aggregation.checksum import MARK
from ppml.aggregation.hpke import CLASSICAL_OVERHEAD
from ppml.aggregation.identities import SIGNATURE
from ppml.aggregation.protocol import BadUpdate
from ppml.aggregation.shamir import BYTES
from ppml.aggregation.streams import KEY, agreed_key, is_canonical, stream

SCHEME = "masking"
KEYS, SHARES, LETTERS, DISPUTES, UNMASK = "keys", "shares", "letters", "disputes", "unmask"
"""The steps of a round, in their order; the upload is between the last two."""

KEYS_BYTES = 2 * KEY + MARK
PUBLISHED = KEYS_BYTES + SIGNATURE
"""Bytes of what a client publishes: two public keys, what its own seed is known by, and its signature."""

LETTER = 2 * BYTES + CLASSICAL_OVERHEAD + SIGNATURE
"""Bytes of two shares, encrypted and signed."""

_CLIENT, _ROUND = struct.Struct("<I"), struct.Struct("<Q")


def place_of(client: int) -> int:
    """Return where the share of a client is taken: at 0 is the secret itself."""
    return client + 1


def packed(entries: Mapping[int, bytes]) -> bytes:
    """Return one entry of equal size for each client, by the clients' numbers."""
    return b"".join(_CLIENT.pack(client) + entries[client] for client in sorted(entries))


def unpacked(content: bytes, size: int) -> dict[int, bytes]:
    """Return what :func:`packed` packed.

    Raises
    ------
    BadUpdate
        It is cut off, or a client is in it twice.
    """
    step = _CLIENT.size + size
    starts = range(0, len(content), step)
    entries = {
        _CLIENT.unpack_from(content, start)[0]: content[start + _CLIENT.size : start + step]
        for start in starts
        if len(content) - start >= step
    }
    if len(entries) != len(starts):
        raise BadUpdate("what was said about the masks cannot be read")
    return entries


def signed_keys(number: int, keys: bytes) -> bytes:
    """Return what a client signs of the keys that it publishes in round ``number``."""
    return b"ppml masks keys" + _ROUND.pack(number) + keys


def bound_to(number: int, publics: Mapping[int, bytes]) -> bytes:
    """Return what all masks and letters of a round are bound to: its number, and the whole list of published keys."""
    return _ROUND.pack(number) + hashlib.sha256(packed(publics)).digest()


def letter_to(about: bytes, sender: int, reader: int) -> bytes:
    """Return what a letter is bound to: ``about``, as :func:`bound_to` returns it, its sender and its reader."""
    return b"ppml masks letter" + about + _CLIENT.pack(sender) + _CLIENT.pack(reader)


def complaint(about: bytes, sender: int, reader: int) -> bytes:
    """Return what ``reader`` signs where it cannot open a letter that ``sender`` has signed."""
    return b"ppml masks complaint" + about + _CLIENT.pack(sender) + _CLIENT.pack(reader)


def mask_key(published: bytes) -> bytes:
    """Return the public key for pairwise masks in what a client has published."""
    return published[KEY : 2 * KEY]


def pairwise(
    secret: X25519PrivateKey, publics: Mapping[int, bytes], client: int, about: bytes, length: int, width: int
) -> NDArray[np.unsignedinteger]:
    """Return the sum of the masks that ``client`` has in common with others, each with its sign.

    Parameters
    ----------
    secret : X25519PrivateKey
        The key of ``client`` for masks.
    publics : mapping of int to bytes
        The public keys of the others for masks, by their numbers; one of ``client`` itself is passed over.
    client : int
        Its number.
    about : bytes
        What the masks of this round are bound to; see :func:`bound_to`.
    length, width : int
        How many values, and how many bytes each has.
    """
    total = np.zeros(length, dtype=f"<u{width}")
    for other, public in publics.items():
        if other == client:
            continue
        low, high = sorted((client, other))
        mask = stream(
            agreed_key(secret, public, b"mask" + about + _CLIENT.pack(low) + _CLIENT.pack(high)), length, width
        )
        # One of the two adds what the other subtracts.
        total = total + mask if client == low else total - mask
    return total


def refuse_repeated(publics: Mapping[int, bytes]) -> None:
    """Raise an error where a public key is not in its one form, or in the list twice, of whatever kind it is.

    A client that publishes the key of another has masks in common with all that the other has.
    """
    keys = [entry[start : start + KEY] for entry in publics.values() for start in (0, KEY)]
    if not all(map(is_canonical, keys)):
        raise BadUpdate("a key of masks that is not in the form that its generation gives it")
    if len(set(keys)) < len(keys):
        raise BadUpdate("a key of masks is published twice")
