"""The group of masks and their shares: the prime-order subgroup of Ed25519, by libsodium.

A scalar is an integer modulo the order, a point is a multiple of the base point. Computing a scalar from its point is
the discrete logarithm problem, which a quantum computer would solve. Each point has one encoding; libsodium refuses
other encodings, and points of another order.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_is_valid_point,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)
from nacl.exceptions import CryptoError

ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""The order of the group, a prime (RFC 8032, section 5.1)."""

ELEMENT_BYTES: Final = 32
"""Bytes of a scalar, and of a point."""

_KEY_BYTES: Final = 32


def random_scalar() -> bytes:
    """Return a nonzero random scalar from the operating system's entropy."""
    return encode_scalar(1 + secrets.randbelow(ORDER - 1))


def encode_scalar(scalar: int) -> bytes:
    """Return the encoding of a scalar."""
    return (scalar % ORDER).to_bytes(ELEMENT_BYTES, "little")


def base_multiple(scalar: bytes) -> bytes:
    """Return the multiple of the base point.

    Raises
    ------
    ValueError
        The scalar is 0, or not below the order.
    """
    if len(scalar) != ELEMENT_BYTES or not 0 < int.from_bytes(scalar, "little") < ORDER:
        raise ValueError("a scalar has 32 bytes, and is from 1 to the order of the group minus 1")
    return crypto_scalarmult_ed25519_base_noclamp(scalar)


def is_point(content: bytes) -> bool:
    """Return whether ``content`` encodes a point of the group other than the neutral element."""
    return len(content) == ELEMENT_BYTES and crypto_core_ed25519_is_valid_point(content)


def scalar_multiple(scalar: bytes, point: bytes) -> bytes:
    """Return a multiple of ``point``.

    Raises
    ------
    ValueError
        ``point`` is not in the group, or the scalar is 0.
    """
    try:
        return crypto_scalarmult_ed25519_noclamp(scalar, point)
    except CryptoError:
        raise ValueError("the point is not in the group, or the scalar is 0") from None


def add_points(point: bytes, other: bytes) -> bytes:
    """Return the sum of two points."""
    return crypto_core_ed25519_add(point, other)


def derive_shared_key(secret: bytes, public: bytes, info: bytes) -> bytes:
    """Return the shared key of two parties for one use: Diffie-Hellman, then HKDF-SHA256.

    Parameters
    ----------
    secret : bytes
        Scalar of one party.
    public : bytes
        Point of the other party.
    info : bytes
        Identifier of the use.

    Returns
    -------
    bytes
        Key of 32 bytes.

    Raises
    ------
    ValueError
        ``public`` is not in the group.
    """
    shared = scalar_multiple(secret, public)
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"ppml " + info).derive(shared)
