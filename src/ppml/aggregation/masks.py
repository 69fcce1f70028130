"""What the clients and the server have in common under pairwise masks: the messages of a round, and the masks."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ppml.aggregation.group import ELEMENT_BYTES, derive_shared_key, is_point, base_multiple
from ppml.aggregation.hpke import CLASSICAL_OVERHEAD, is_classical_key
from ppml.aggregation.identities import SIGNATURE_BYTES
from ppml.aggregation.primitives import KEY_BYTES, prg
from ppml.aggregation.shamir import share_matches_point
from ppml.errors import InvalidUpdate

SCHEME = "masking"
KEYS, SHARES, ENCRYPTED_SHARES, DISPUTES, UNMASK = "keys", "shares", "letters", "disputes", "unmask"
"""The steps of a round, in their order; the upload is between the last two."""

PUBLIC_KEYS_BYTES = KEY_BYTES + 2 * ELEMENT_BYTES
SIGNED_KEYS_BYTES = PUBLIC_KEYS_BYTES + SIGNATURE_BYTES
"""Bytes of what a client publishes: its key for letters, the points of its two secrets, and its signature."""

SHARE_PAIR_BYTES = 2 * ELEMENT_BYTES
"""Bytes of two shares, or of their points: of the own mask's secret, then of the key for pairwise masks."""

SELF_MASK, PAIRWISE_KEY = slice(0, ELEMENT_BYTES), slice(ELEMENT_BYTES, SHARE_PAIR_BYTES)
"""Where the share of each of the two secrets is in two shares, and its point in their points."""

ENCRYPTED_SHARES_BYTES = SHARE_PAIR_BYTES + CLASSICAL_OVERHEAD + SHARE_PAIR_BYTES + SIGNATURE_BYTES
"""Bytes of two shares, encrypted, their points, and a signature."""

_CLIENT, _ROUND = struct.Struct("<I"), struct.Struct("<Q")


def share_index(client: int) -> int:
    """Return where the share of a client is taken: at 0 is the secret itself."""
    return client + 1


def pack_entries(entries: Mapping[int, bytes]) -> bytes:
    """Return one entry of equal size for each client, by the clients' numbers."""
    return b"".join(_CLIENT.pack(client) + entries[client] for client in sorted(entries))


def packed_entries_bytes(entries: int, size: int) -> int:
    """Return how many bytes :func:`pack_entries` makes of so many entries of ``size`` bytes."""
    return entries * (_CLIENT.size + size)


def unpack_entries(content: bytes, size: int) -> dict[int, bytes]:
    """Return what :func:`pack_entries` packed.

    Raises
    ------
    InvalidUpdate
        It is cut off, or a client is in it twice.
    """
    step = packed_entries_bytes(1, size)
    starts = range(0, len(content), step)
    entries = {
        _CLIENT.unpack_from(content, start)[0]: content[start + _CLIENT.size : start + step]
        for start in starts
        if len(content) - start >= step
    }
    if len(entries) != len(starts):
        raise InvalidUpdate("what was said about the masks cannot be read")
    return entries


def parse_shares_reply(content: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Return what a client sends in the step ``shares``: the points of the shares that it keeps, and its letters.

    Raises
    ------
    InvalidUpdate
        It is cut off, or a client is in it twice.
    """
    if len(content) < SHARE_PAIR_BYTES:
        raise InvalidUpdate("what was said about the masks cannot be read")
    return content[:SHARE_PAIR_BYTES], unpack_entries(content[SHARE_PAIR_BYTES:], ENCRYPTED_SHARES_BYTES)


def keys_message(number: int, keys: bytes) -> bytes:
    """Return what a client signs of the keys that it publishes in round ``number``."""
    return b"ppml masks keys" + _ROUND.pack(number) + keys


def round_context(number: int, publics: Mapping[int, bytes]) -> bytes:
    """Return what all masks and letters of a round are bound to: its number, and the whole list of published keys."""
    return _ROUND.pack(number) + hashlib.sha256(pack_entries(publics)).digest()


def share_context(about: bytes, sender: int, reader: int) -> bytes:
    """Return what a letter is bound to: ``about``, as :func:`round_context` returns it, its sender and its reader."""
    return b"ppml masks letter" + about + _CLIENT.pack(sender) + _CLIENT.pack(reader)


def complaint_message(about: bytes, sender: int, reader: int) -> bytes:
    """Return what ``reader`` signs where it cannot open a letter that ``sender`` has signed."""
    return b"ppml masks complaint" + about + _CLIENT.pack(sender) + _CLIENT.pack(reader)


def partner_list_message(about: bytes, partners: Iterable[int]) -> bytes:
    """Return what a client signs of the list of the clients that have masks in common, before it seals an update."""
    return b"ppml masks partners" + about + pack_entries(dict.fromkeys(partners, b""))


def pairwise_public_key(published: bytes) -> bytes:
    """Return the public key for pairwise masks in what a client has published."""
    return published[KEY_BYTES : KEY_BYTES + ELEMENT_BYTES]


def self_mask_point(published: bytes) -> bytes:
    """Return the point of the secret of the own mask in what a client has published."""
    return published[KEY_BYTES + ELEMENT_BYTES : PUBLIC_KEYS_BYTES]


def points_in_message(letter: bytes) -> bytes:
    """Return the points of the two shares in a letter, which anybody can read."""
    return letter[-SIGNATURE_BYTES - SHARE_PAIR_BYTES : -SIGNATURE_BYTES]


def share_points(shares: bytes) -> bytes:
    """Return the points of two shares; a share is 0, which has none, with a probability of 2^-252."""
    return base_multiple(shares[SELF_MASK]) + base_multiple(shares[PAIRWISE_KEY])


def shares_match(shares: bytes, points: bytes) -> bool:
    """Return whether two shares are those of two points."""
    return all(share_matches_point(shares[part], points[part]) for part in (SELF_MASK, PAIRWISE_KEY))


def self_mask(secret: bytes, length: int, width: int) -> NDArray[np.unsignedinteger]:
    """Return the mask that comes from a client's own secret, whose point is known to all."""
    return prg(hashlib.sha256(b"ppml masks own" + secret).digest(), length, width)


def pairwise_mask_sum(
    secret: bytes, publics: Mapping[int, bytes], client: int, about: bytes, length: int, width: int
) -> NDArray[np.unsignedinteger]:
    """Return the sum of the masks that ``client`` has in common with others, each with its sign.

    Parameters
    ----------
    secret : bytes
        The key of ``client`` for masks.
    publics : mapping of int to bytes
        The public keys of the others for masks, by their numbers; one of ``client`` itself is passed over.
    client : int
        Its number.
    about : bytes
        What the masks of this round are bound to; see :func:`round_context`.
    length, width : int
        How many values, and how many bytes each has.
    """
    total = np.zeros(length, dtype=f"<u{width}")
    for other, public in publics.items():
        if other == client:
            continue
        low, high = sorted((client, other))
        mask = prg(
            derive_shared_key(secret, public, b"mask" + about + _CLIENT.pack(low) + _CLIENT.pack(high)), length, width
        )
        # One of the two adds what the other subtracts.
        total = total + mask if client == low else total - mask
    return total


def check_key_form(published: bytes) -> None:
    """Raise an error where a key in what a client has published is none, or not in its one form."""
    points = pairwise_public_key(published), self_mask_point(published)
    if not is_classical_key(published[:KEY_BYTES]) or not all(map(is_point, points)):
        raise InvalidUpdate("a key of masks that is not in the form that its generation gives it")


def check_distinct_keys(publics: Mapping[int, bytes]) -> None:
    """Raise an error where a public key is in the list twice, of whatever kind it is.

    A client that publishes the key of another has masks in common with all that the other has.
    """
    keys = [part for entry in publics.values() for part in (entry[:KEY_BYTES], pairwise_public_key(entry), self_mask_point(entry))]
    if len(set(keys)) < len(keys):
        raise InvalidUpdate("a key of masks is published twice")
