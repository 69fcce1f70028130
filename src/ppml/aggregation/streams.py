"""What shares and masks are made of: keys that two parties agree on, and random integers."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from ppml.aggregation.capacity import largest_value
from ppml.config.technique import FixedPointSpec

KEY = 32
"""Bytes of a key, public or secret."""

_CURVE_PRIME = 2**255 - 19


def agreed_key(secret: X25519PrivateKey, public: bytes, about: bytes) -> bytes:
    """Return the key that two parties have in common for one use, by X25519 and HKDF-SHA256.

    Parameters
    ----------
    secret : X25519PrivateKey
        The key of one party.
    public : bytes
        That of the other, 32 bytes.
    about : bytes
        The use. It names both parties: X25519 gives the same for several public keys, which differ by a point of small
        order, so that equal keys are not the only ones that agree on the same.

    Raises
    ------
    ValueError
        ``public`` is no key, or one of small order, which gives every party the same.
    """
    common = secret.exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(algorithm=SHA256(), length=KEY, salt=None, info=b"ppml " + about).derive(common)


def is_canonical(public: bytes) -> bool:
    """Return whether an X25519 key is written in the one way that its generation gives it (RFC 7748, section 5)."""
    return len(public) == KEY and int.from_bytes(public, "little") < _CURVE_PRIME


def width_of(clients: int, spec: FixedPointSpec) -> int:
    """Return how many bytes hold the sum of ``clients`` values on a grid."""
    return 4 if clients * largest_value(spec.clip, spec.fractional_bits) < 2**31 else 8


def stream(seed: bytes, length: int, width: int) -> NDArray[np.unsignedinteger]:
    """Return ``length`` random integers of ``width`` bytes: AES-256 in counter mode, under a key used once."""
    encryptor = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(length * width)), dtype=f"<u{width}")
