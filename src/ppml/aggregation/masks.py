"""What the clients and the server have in common under pairwise masks: the messages of a round, and the masks."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ppml.aggregation.group import BYTES, agreed_key, is_point, point_of
from ppml.aggregation.hpke import CLASSICAL_OVERHEAD, is_classical_key
from ppml.aggregation.identities import SIGNATURE
from ppml.aggregation.interfaces import BadUpdate
from ppml.aggregation.primitives import KEY, stream
from ppml.aggregation.shamir import is_share

SCHEME = "masking"
KEYS, SHARES, LETTERS, DISPUTES, UNMASK = "keys", "shares", "letters", "disputes", "unmask"
"""The steps of a round, in their order; the upload is between the last two."""

KEYS_BYTES = KEY + 2 * BYTES
PUBLISHED = KEYS_BYTES + SIGNATURE
"""Bytes of what a client publishes: its key for letters, the points of its two secrets, and its signature."""

TWO = 2 * BYTES
"""Bytes of two shares, or of their points: of the own mask's secret, then of the key for pairwise masks."""

OWN_MASK, MASK_KEY = slice(0, BYTES), slice(BYTES, TWO)
"""Where the share of each of the two secrets is in two shares, and its point in their points."""

LETTER = TWO + CLASSICAL_OVERHEAD + TWO + SIGNATURE
"""Bytes of two shares, encrypted, their points, and a signature."""

_CLIENT, _ROUND = struct.Struct("<I"), struct.Struct("<Q")


def place_of(client: int) -> int:
    """Return where the share of a client is taken: at 0 is the secret itself."""
    return client + 1


def packed(entries: Mapping[int, bytes]) -> bytes:
    """Return one entry of equal size for each client, by the clients' numbers."""
    return b"".join(_CLIENT.pack(client) + entries[client] for client in sorted(entries))


def packed_size(entries: int, size: int) -> int:
    """Return how many bytes :func:`packed` makes of so many entries of ``size`` bytes."""
    return entries * (_CLIENT.size + size)


def unpacked(content: bytes, size: int) -> dict[int, bytes]:
    """Return what :func:`packed` packed.

    Raises
    ------
    BadUpdate
        It is cut off, or a client is in it twice.
    """
    step = packed_size(1, size)
    starts = range(0, len(content), step)
    entries = {
        _CLIENT.unpack_from(content, start)[0]: content[start + _CLIENT.size : start + step]
        for start in starts
        if len(content) - start >= step
    }
    if len(entries) != len(starts):
        raise BadUpdate("what was said about the masks cannot be read")
    return entries


def points_and_letters(content: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Return what a client sends in the step ``shares``: the points of the shares that it keeps, and its letters.

    Raises
    ------
    BadUpdate
        It is cut off, or a client is in it twice.
    """
    if len(content) < TWO:
        raise BadUpdate("what was said about the masks cannot be read")
    return content[:TWO], unpacked(content[TWO:], LETTER)


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


def joined(about: bytes, partners: Iterable[int]) -> bytes:
    """Return what a client signs of the list of the clients that have masks in common, before it seals an update."""
    return b"ppml masks partners" + about + packed(dict.fromkeys(partners, b""))


def mask_key(published: bytes) -> bytes:
    """Return the public key for pairwise masks in what a client has published."""
    return published[KEY : KEY + BYTES]


def own_point(published: bytes) -> bytes:
    """Return the point of the secret of the own mask in what a client has published."""
    return published[KEY + BYTES : KEYS_BYTES]


def points_in(letter: bytes) -> bytes:
    """Return the points of the two shares in a letter, which anybody can read."""
    return letter[-SIGNATURE - TWO : -SIGNATURE]


def points_of(shares: bytes) -> bytes:
    """Return the points of two shares; a share is 0, which has none, with a probability of 2^-252."""
    return point_of(shares[OWN_MASK]) + point_of(shares[MASK_KEY])


def fit(shares: bytes, points: bytes) -> bool:
    """Return whether two shares are those of two points."""
    return all(is_share(shares[part], points[part]) for part in (OWN_MASK, MASK_KEY))


def own_mask(secret: bytes, length: int, width: int) -> NDArray[np.unsignedinteger]:
    """Return the mask that comes from a client's own secret, whose point is known to all."""
    return stream(hashlib.sha256(b"ppml masks own" + secret).digest(), length, width)


def pairwise(
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


def refuse_other_form(published: bytes) -> None:
    """Raise an error where a key in what a client has published is none, or not in its one form."""
    points = mask_key(published), own_point(published)
    if not is_classical_key(published[:KEY]) or not all(map(is_point, points)):
        raise BadUpdate("a key of masks that is not in the form that its generation gives it")


def refuse_repeated(publics: Mapping[int, bytes]) -> None:
    """Raise an error where a public key is in the list twice, of whatever kind it is.

    A client that publishes the key of another has masks in common with all that the other has.
    """
    keys = [part for entry in publics.values() for part in (entry[:KEY], mask_key(entry), own_point(entry))]
    if len(set(keys)) < len(keys):
        raise BadUpdate("a key of masks is published twice")
