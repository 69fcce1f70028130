"""Joint randomness of several parties, fair if one of them is honest.

Each party commits to a nonce before it has seen another nonce, and reveals it later. The joint coin is a hash of all
nonces: the last party to reveal can withhold its nonce and so prevent the coin, but not choose another one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from ppml.errors import InvalidUpdate

NONCE_BYTES = 32
"""Bytes of a nonce, of a commitment, and of a joint coin."""


class CoinCommitment:
    """The contribution of one party to a joint coin.

    Parameters
    ----------
    index : int
        Index of the party; it makes a copy of another party's commitment invalid.
    use : bytes
        Use of the coin.
    """

    def __init__(self, index: int, use: bytes) -> None:
        self.nonce = os.urandom(NONCE_BYTES)
        self.commitment = commitment_to(self.nonce, index, use)


def commitment_to(nonce: bytes, index: int, use: bytes) -> bytes:
    """Return the commitment to a nonce."""
    return hashlib.sha256(b"ppml coin" + bytes([index]) + nonce + use).digest()


def joint_coin(commitments: Sequence[bytes], nonces: Sequence[bytes], use: bytes) -> bytes:
    """Return the joint coin.

    Raises
    ------
    InvalidUpdate
        A nonce does not match its commitment, or is missing.
    """
    expected = [commitment_to(nonce, index, use) for index, nonce in enumerate(nonces)]
    if any(len(nonce) != NONCE_BYTES for nonce in nonces) or expected != list(commitments):
        raise InvalidUpdate("a server reveals a nonce that does not match its commitment")
    return hashlib.sha256(b"ppml toss" + b"".join(nonces) + use).digest()
