"""Secrets divided so that enough of the shares give them back and fewer say nothing (Shamir, CACM 1979)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

PRIME = 2**256 - 189
"""The field: the largest prime below 2^256, so that a share takes 32 bytes."""

BYTES = 32
"""Of a secret, and of a share."""


def fresh_secret() -> bytes:
    """Return a random secret of the operating system's."""
    return secrets.randbelow(PRIME).to_bytes(BYTES, "little")


def divided(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    """Return a share of ``secret`` for each of ``places``: the values there of a random polynomial.

    Parameters
    ----------
    secret : bytes
        32 bytes that are, as a little-endian number, below :data:`PRIME`.
    places : sequence of int
        Who gets one: distinct numbers from 1.
    threshold : int
        How many shares give the secret back.

    Raises
    ------
    ValueError
        The secret is too large, a place is not from 1 or there twice, or too few are there.

    Examples
    --------
    >>> shares = divided(bytes(31) + b"x", [1, 2, 3, 4], threshold=3)
    >>> together({place: shares[place] for place in (1, 2, 4)}, threshold=3) == bytes(31) + b"x"
    True
    """
    value = int.from_bytes(secret, "little")
    if len(secret) != BYTES or value >= PRIME:
        raise ValueError("a secret is 32 bytes and below 2^256 - 189")
    if min(places) < 1 or len(set(places)) < len(places) or not 1 <= threshold <= len(places):
        raise ValueError(
            f"{threshold} of the places {list(places)}: they are distinct and from 1, and as many at least"
        )
    # From the constant term, which is the secret, up.
    polynomial = [value, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {place: _at(polynomial, place).to_bytes(BYTES, "little") for place in places}


def _at(polynomial: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % PRIME
    return value


def together(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret that ``shares`` are of, by Lagrange's formula at 0.

    Raises
    ------
    ValueError
        They are too few.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, {threshold} are needed")
    chosen = sorted(shares)[:threshold]
    value = 0
    for place in chosen:
        above, below = 1, 1
        for other in chosen:
            if other != place:
                above, below = above * other % PRIME, below * (other - place) % PRIME
        value += int.from_bytes(shares[place], "little") * above * pow(below, -1, PRIME)
    return (value % PRIME).to_bytes(BYTES, "little")
