"""What shares and masks are made of: keys that two parties agree on, messages under them, and random integers."""

from __future__ import annotations

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from ppml.aggregation.capacity import largest_value
from ppml.config.technique import FixedPointSpec

KEY, TAG = 32, 16
"""Bytes of a key, public or secret, and of what tells whether a message is whole."""

_NONCE = bytes(12)
"""Every key is used for one message, and so may be the nonce."""


def agreed_key(secret: X25519PrivateKey, public: bytes, about: bytes) -> bytes:
    """Return the key that two parties have in common for one use, which ``about`` names.

    Raises
    ------
    ValueError
        ``public`` is no key, or one that gives every party the same.
    """
    common = secret.exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(algorithm=SHA256(), length=KEY, salt=None, info=b"ppml " + about).derive(common)


def locked(key: bytes, content: bytes, beside: bytes | None = None) -> bytes:
    """Return ``content`` under a key that is used once, bound to what goes ``beside`` it."""
    return AESGCM(key).encrypt(_NONCE, content, beside)


def unlocked(key: bytes, message: bytes, beside: bytes | None = None) -> bytes:
    """Return what :func:`locked` locked.

    Raises
    ------
    ValueError
        It was altered, or is under another key, or with something else.
    """
    try:
        return AESGCM(key).decrypt(_NONCE, message, beside)
    except InvalidTag:
        raise ValueError("it was altered, or is under another key") from None


def width_of(clients: int, spec: FixedPointSpec) -> int:
    """Return how many bytes hold the sum of ``clients`` values on a grid."""
    return 4 if clients * largest_value(spec.clip, spec.fractional_bits) < 2**31 else 8


def stream(seed: bytes, length: int, width: int) -> NDArray[np.unsignedinteger]:
    """Return ``length`` random integers of ``width`` bytes: AES-256 in counter mode, under a key used once."""
    encryptor = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(length * width)), dtype=f"<u{width}")
