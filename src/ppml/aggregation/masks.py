"""Messages and masks of secure aggregation, common to clients and server.

:mod:`ppml.aggregation.masking` describes the protocol, and why it is not Flower's SecAgg+.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ppml.aggregation.group import ELEMENT_BYTES, base_multiple, derive_shared_key, is_point
from ppml.aggregation.hpke import CLASSICAL_OVERHEAD, is_classical_key
from ppml.aggregation.identities import SIGNATURE_BYTES
from ppml.aggregation.primitives import KEY_BYTES, prg
from ppml.aggregation.shamir import share_matches_point
from ppml.errors import InvalidUpdate

SCHEME = "masking"
KEYS, SHARES, ENCRYPTED_SHARES, DISPUTES, UNMASK = "keys", "shares", "encrypted_shares", "disputes", "unmask"
"""The steps of a round in order; the upload is between the last two."""

PUBLIC_KEYS_BYTES = KEY_BYTES + 2 * ELEMENT_BYTES
SIGNED_KEYS_BYTES = PUBLIC_KEYS_BYTES + SIGNATURE_BYTES
"""Bytes of a client's advertised keys: its encryption key, the points of its two secrets, and its signature."""

SHARE_PAIR_BYTES = 2 * ELEMENT_BYTES
"""Bytes of a pair of shares, of the self-mask secret and of the pairwise key, or of a pair of their points."""

SELF_MASK, PAIRWISE_KEY = slice(0, ELEMENT_BYTES), slice(ELEMENT_BYTES, SHARE_PAIR_BYTES)
"""Positions of the two shares in a pair."""

SHARE_MESSAGE_BYTES = SHARE_PAIR_BYTES + CLASSICAL_OVERHEAD + SHARE_PAIR_BYTES + SIGNATURE_BYTES
"""Bytes of a share message: an encrypted pair of shares, their points, and a signature."""

_CLIENT, _ROUND = struct.Struct("<I"), struct.Struct("<Q")


def share_index(client: int) -> int:
    """Return the index of a client's share; index 0 is the secret itself."""
    return client + 1


def pack_entries(entries: Mapping[int, bytes]) -> bytes:
    """Return entries of equal size, one per client, ordered by client number."""
    return b"".join(_CLIENT.pack(client) + entries[client] for client in sorted(entries))


def packed_entries_bytes(entries: int, size: int) -> int:
    """Return the size of the result of :func:`pack_entries` for entries of ``size`` bytes."""
    return entries * (_CLIENT.size + size)


def unpack_entries(content: bytes, size: int) -> dict[int, bytes]:
    """Return the entries that :func:`pack_entries` packed.

    Raises
    ------
    InvalidUpdate
        The content is truncated, or has a client twice.
    """
    step = packed_entries_bytes(1, size)
    starts = range(0, len(content), step)
    entries = {
        _CLIENT.unpack_from(content, start)[0]: content[start + _CLIENT.size : start + step]
        for start in starts
        if len(content) - start >= step
    }
    if len(entries) != len(starts):
        raise InvalidUpdate("a masking message cannot be parsed")
    return entries


def parse_shares_reply(content: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Return a client's reply in the step ``shares``: the points of its own shares, and its share messages.

    Raises
    ------
    InvalidUpdate
        The content is truncated, or has a client twice.
    """
    if len(content) < SHARE_PAIR_BYTES:
        raise InvalidUpdate("a masking message cannot be parsed")
    return content[:SHARE_PAIR_BYTES], unpack_entries(content[SHARE_PAIR_BYTES:], SHARE_MESSAGE_BYTES)


def keys_message(number: int, keys: bytes) -> bytes:
    """Return the bytes that a client signs to advertise its public keys in round ``number``."""
    return b"ppml masks keys" + _ROUND.pack(number) + keys


def round_context(number: int, advertised: Mapping[int, bytes]) -> bytes:
    """Return the context of a round's masks and share messages: its number, and the list of advertised keys."""
    return _ROUND.pack(number) + hashlib.sha256(pack_entries(advertised)).digest()


def share_context(context: bytes, sender: int, recipient: int) -> bytes:
    """Return the context of a share message: the :func:`round_context`, its sender and its recipient."""
    # Labels of keys and signatures never change, so this one keeps an earlier word.
    return b"ppml masks letter" + context + _CLIENT.pack(sender) + _CLIENT.pack(recipient)


def complaint_message(context: bytes, sender: int, recipient: int) -> bytes:
    """Return the bytes that ``recipient`` signs to complain about a share message of ``sender``."""
    return b"ppml masks complaint" + context + _CLIENT.pack(sender) + _CLIENT.pack(recipient)


def partner_list_message(context: bytes, partners: Iterable[int]) -> bytes:
    """Return the bytes that a client signs to confirm the list of clients with common masks, before it uploads."""
    return b"ppml masks partners" + context + pack_entries(dict.fromkeys(partners, b""))


def pairwise_public_key(advertised: bytes) -> bytes:
    """Return the public key for pairwise masks in the advertised keys of a client."""
    return advertised[KEY_BYTES : KEY_BYTES + ELEMENT_BYTES]


def self_mask_point(advertised: bytes) -> bytes:
    """Return the point of the self-mask secret in the advertised keys of a client."""
    return advertised[KEY_BYTES + ELEMENT_BYTES : PUBLIC_KEYS_BYTES]


def points_in_message(message: bytes) -> bytes:
    """Return the public points of the two shares in a share message."""
    return message[-SIGNATURE_BYTES - SHARE_PAIR_BYTES : -SIGNATURE_BYTES]


def share_points(shares: bytes) -> bytes:
    """Return the points of a pair of shares; a share is 0, which has no point, with probability 2^-252."""
    return base_multiple(shares[SELF_MASK]) + base_multiple(shares[PAIRWISE_KEY])


def shares_match(shares: bytes, points: bytes) -> bool:
    """Return whether a pair of shares matches a pair of points."""
    return all(share_matches_point(shares[part], points[part]) for part in (SELF_MASK, PAIRWISE_KEY))


def self_mask(secret: bytes, length: int, width: int) -> NDArray[np.unsignedinteger]:
    """Return the mask from a client's self-mask secret, whose point is public."""
    return prg(hashlib.sha256(b"ppml masks own" + secret).digest(), length, width)


def pairwise_mask_sum(
    secret: bytes, publics: Mapping[int, bytes], client: int, context: bytes, length: int, width: int
) -> NDArray[np.unsignedinteger]:
    """Return the signed sum of the pairwise masks of ``client`` with others.

    Parameters
    ----------
    secret : bytes
        Pairwise key of ``client``.
    publics : mapping of int to bytes
        Public pairwise keys by client number; an entry of ``client`` itself is ignored.
    client : int
        Number of the client.
    context : bytes
        Context of the masks; see :func:`round_context`.
    length, width : int
        Number of values, and bytes per value.
    """
    total = np.zeros(length, dtype=f"<u{width}")
    for other, public in publics.items():
        if other == client:
            continue
        low, high = sorted((client, other))
        info = b"mask" + context + _CLIENT.pack(low) + _CLIENT.pack(high)
        mask = prg(derive_shared_key(secret, public, info), length, width)
        # One client of a pair adds the mask, the other subtracts it.
        total = total + mask if client == low else total - mask
    return total


def check_key_form(advertised: bytes) -> None:
    """Raise an error where an advertised key is invalid, or not in its canonical encoding."""
    points = pairwise_public_key(advertised), self_mask_point(advertised)
    if not is_classical_key(advertised[:KEY_BYTES]) or not all(map(is_point, points)):
        raise InvalidUpdate("an advertised key is invalid, or not in its canonical encoding")


def check_distinct_keys(advertised: Mapping[int, bytes]) -> None:
    """Raise an error where the list of advertised keys has a key twice, of any kind.

    A client that advertises the key of another one would share all its masks.
    """
    keys = [
        part
        for entry in advertised.values()
        for part in (entry[:KEY_BYTES], pairwise_public_key(entry), self_mask_point(entry))
    ]
    if len(set(keys)) < len(keys):
        raise InvalidUpdate("a key is advertised twice")
