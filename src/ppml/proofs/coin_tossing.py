"""Randomness that several parties draw together, so that it is fair while one of them is honest.

Each commits itself to a nonce before it has seen another's, and shows it later. What is drawn is a digest of all: who
shows its nonce last could keep it to itself, and so prevent a draw, but not choose another.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from ppml.errors import InvalidUpdate


NONCE_BYTES = 32
"""Bytes of a nonce, of a commitment to one, and of what is drawn."""


class CoinCommitment:
    """What one party adds to a draw.

    Parameters
    ----------
    place : int
        Of the party among all: a commitment that is another's, copied, does not fit.
    use : bytes
        What the draw is for.
    """

    def __init__(self, place: int, use: bytes) -> None:
        self.nonce = os.urandom(NONCE_BYTES)
        self.commitment = commitment_to(self.nonce, place, use)


def commitment_to(nonce: bytes, place: int, use: bytes) -> bytes:
    """Return the commitment to a nonce."""
    return hashlib.sha256(b"ppml coin" + bytes([place]) + nonce + use).digest()


def joint_coin(commitments: Sequence[bytes], nonces: Sequence[bytes], use: bytes) -> bytes:
    """Return what was drawn.

    Raises
    ------
    InvalidUpdate
        A party shows another nonce than it committed itself to, or none.
    """
    found = [commitment_to(nonce, place, use) for place, nonce in enumerate(nonces)]
    if any(len(nonce) != NONCE_BYTES for nonce in nonces) or found != list(commitments):
        raise InvalidUpdate("a server shows another nonce than the one that it committed itself to")
    return hashlib.sha256(b"ppml toss" + b"".join(nonces) + use).digest()
