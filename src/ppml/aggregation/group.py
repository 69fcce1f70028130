"""The group that masks and their shares are in: the points of Ed25519 of prime order, by libsodium.

A scalar is a number modulo the order, a point is a multiple of the base point. The scalar cannot be computed from a
point, as far as is known; a quantum computer would do it. Each point has one form in bytes, and libsodium refuses every
other one, and all points of another order.
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
"""A prime (RFC 8032, section 5.1)."""

ELEMENT_BYTES: Final = 32
"""Bytes of a scalar, and of a point."""

_KEY_BYTES: Final = 32


def random_scalar() -> bytes:
    """Return a random scalar of the operating system's, which is not 0."""
    return encode_scalar(1 + secrets.randbelow(ORDER - 1))


def encode_scalar(scalar: int) -> bytes:
    """Return a scalar as bytes."""
    return (scalar % ORDER).to_bytes(ELEMENT_BYTES, "little")


def base_multiple(scalar: bytes) -> bytes:
    """Return the multiple of the base point.

    Raises
    ------
    ValueError
        The scalar is 0, or not below the order.
    """
    if len(scalar) != ELEMENT_BYTES or not 0 < int.from_bytes(scalar, "little") < ORDER:
        raise ValueError("a scalar is 32 bytes, from 1 and below the order of the group")
    return crypto_scalarmult_ed25519_base_noclamp(scalar)


def is_point(content: bytes) -> bool:
    """Return whether bytes are a point of the group, other than its neutral one."""
    return len(content) == ELEMENT_BYTES and crypto_core_ed25519_is_valid_point(content)


def scalar_multiple(scalar: bytes, point: bytes) -> bytes:
    """Return a multiple of a point.

    Raises
    ------
    ValueError
        It is no point of the group, or the scalar is 0.
    """
    try:
        return crypto_scalarmult_ed25519_noclamp(scalar, point)
    except CryptoError:
        raise ValueError("no point of the group, or a scalar of 0") from None


def add_points(point: bytes, other: bytes) -> bytes:
    """Return the sum of two points."""
    return crypto_core_ed25519_add(point, other)


def derive_shared_key(secret: bytes, public: bytes, about: bytes) -> bytes:
    """Return the key that two parties have in common for one use: Diffie and Hellman's, then HKDF-SHA256.

    Parameters
    ----------
    secret : bytes
        The scalar of one party.
    public : bytes
        The point of the other.
    about : bytes
        The use.

    Returns
    -------
    bytes
        32 bytes.

    Raises
    ------
    ValueError
        ``public`` is no point of the group.
    """
    common = scalar_multiple(secret, public)
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"ppml " + about).derive(common)
