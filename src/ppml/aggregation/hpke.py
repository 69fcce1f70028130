"""Public-key encryption: HPKE (RFC 9180) in its base mode, by ``cryptography``.

A message is encrypted to the recipient's public key with a new ephemeral key, and bound to an ``info`` string, which
decryption needs too. It does not authenticate its sender; :mod:`ppml.aggregation.identities` has signatures. All keys
are drawn from the operating system's entropy.

Two suites are used, both with HKDF-SHA256 and AES-256-GCM:

- X25519, which adds 48 bytes to a message;
- ML-KEM-768 with X25519, which adds 1,136 bytes. It is secure if one of the two problems is hard, so that a recorded
  message stays secret from a quantum computer.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

X25519_BYTES: Final = 32
MLKEM768_BYTES: Final = 1184
"""Bytes of a public key."""

TAG_BYTES: Final = 16
CLASSICAL_OVERHEAD: Final = KEM.X25519.enc_length() + TAG_BYTES
HYBRID_OVERHEAD: Final = KEM.MLKEM768_X25519.enc_length() + TAG_BYTES
"""Bytes that encryption adds to a message."""

_CURVE_PRIME = 2**255 - 19

_CLASSICAL = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_HYBRID = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class DecryptionError(ValueError):
    """A ciphertext that was altered, or is for another key or ``info``."""


class ClassicalKey:
    """An X25519 key pair."""

    def __init__(self) -> None:
        self._secret = X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._secret.public_key().public_bytes_raw()

    def decrypt(self, ciphertext: bytes, info: bytes) -> bytes:
        """Return the plaintext.

        Raises
        ------
        DecryptionError
            The ciphertext is not for this key and ``info``.
        """
        return _decrypt(_CLASSICAL, ciphertext, self._secret, info)


class HybridKey:
    """A key pair of ML-KEM-768 with X25519."""

    def __init__(self) -> None:
        lattice, curve = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._secret = MLKEM768X25519PrivateKey(lattice, curve)
        self.public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()

    def decrypt(self, ciphertext: bytes, info: bytes) -> bytes:
        """Return the plaintext; see :meth:`ClassicalKey.decrypt`."""
        return _decrypt(_HYBRID, ciphertext, self._secret, info)


def is_classical_key(public: bytes) -> bool:
    """Return whether ``public`` is a usable public X25519 key in its canonical encoding.

    X25519 accepts several encodings of a key (RFC 7748, section 5); with one encoding, unequal bytes are unequal keys.
    """
    if len(public) != X25519_BYTES or int.from_bytes(public, "little") >= _CURVE_PRIME:
        return False
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def encrypt_classical(plaintext: bytes, public: bytes, info: bytes) -> bytes:
    """Return ``plaintext``, encrypted to ``public`` under X25519.

    Raises
    ------
    ValueError
        ``public`` is no key, or has a small order.
    """
    return _CLASSICAL.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info)


def encrypt_hybrid(plaintext: bytes, public: bytes, info: bytes) -> bytes:
    """Return ``plaintext``, encrypted to ``public`` under ML-KEM-768 with X25519.

    Raises
    ------
    ValueError
        ``public`` is no key.
    """
    lattice = MLKEM768PublicKey.from_public_bytes(public[:MLKEM768_BYTES])
    curve = X25519PublicKey.from_public_bytes(public[MLKEM768_BYTES:])
    return _HYBRID.encrypt(plaintext, MLKEM768X25519PublicKey(lattice, curve), info)


def _decrypt(
    suite: Suite, ciphertext: bytes, secret: X25519PrivateKey | MLKEM768X25519PrivateKey, info: bytes
) -> bytes:
    try:
        return suite.decrypt(ciphertext, secret, info)
    except (InvalidTag, ValueError):
        raise DecryptionError("the ciphertext was altered, or is for another key or info string") from None
