"""Messages that one reader alone can open: HPKE (RFC 9180) in its base mode, by ``cryptography``.

A message is encrypted to the reader's public key, by a key that is new for each message, and bound to a context: it
opens under the same context alone. It does not tell its sender: a message whose sender matters is signed besides (see
:mod:`ppml.aggregation.identities`). All keys are drawn from the operating system's entropy.

Two suites are used, both with HKDF-SHA256 and AES-256-GCM:

- X25519, which adds 48 bytes to a message;
- ML-KEM-768 with X25519, which adds 1,136 bytes. It stays secret as long as one of the two problems is hard, and so
  also where a message is kept until there is a quantum computer.
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
"""Bytes by which an encrypted message is longer than its content."""

_CURVE_PRIME = 2**255 - 19

_CLASSICAL = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_HYBRID = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class DecryptionError(ValueError):
    """A message that was altered, or encrypted to another key or under another context."""


class ClassicalKey:
    """The secret key of a reader under X25519."""

    def __init__(self) -> None:
        self._secret = X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._secret.public_key().public_bytes_raw()

    def decrypt(self, message: bytes, context: bytes) -> bytes:
        """Return the content of a message.

        Raises
        ------
        Unreadable
            The message cannot be opened under this key and ``context``.
        """
        return _decrypt(_CLASSICAL, message, self._secret, context)


class HybridKey:
    """The secret key of a reader under ML-KEM-768 with X25519."""

    def __init__(self) -> None:
        lattice, curve = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._secret = MLKEM768X25519PrivateKey(lattice, curve)
        self.public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()

    def decrypt(self, message: bytes, context: bytes) -> bytes:
        """Return the content of a message; see :meth:`ClassicalKey.decrypt`."""
        return _decrypt(_HYBRID, message, self._secret, context)


def is_classical_key(public: bytes) -> bool:
    """Return whether bytes are a public X25519 key that others can encrypt to, in its one form.

    Another form of a key is read as the same key (RFC 7748, section 5), so that unequal bytes are no unequal keys.
    """
    if len(public) != X25519_BYTES or int.from_bytes(public, "little") >= _CURVE_PRIME:
        return False
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def encrypt_classical(content: bytes, public: bytes, context: bytes) -> bytes:
    """Return ``content`` for the holder of the secret key to ``public``, under X25519.

    Raises
    ------
    ValueError
        ``public`` is no key, or one of small order.
    """
    return _CLASSICAL.encrypt(content, X25519PublicKey.from_public_bytes(public), context)


def encrypt_hybrid(content: bytes, public: bytes, context: bytes) -> bytes:
    """Return ``content`` for the holder of the secret key to ``public``, under ML-KEM-768 with X25519.

    Raises
    ------
    ValueError
        ``public`` is no key.
    """
    lattice = MLKEM768PublicKey.from_public_bytes(public[:MLKEM768_BYTES])
    curve = X25519PublicKey.from_public_bytes(public[MLKEM768_BYTES:])
    return _HYBRID.encrypt(content, MLKEM768X25519PublicKey(lattice, curve), context)


def _decrypt(
    suite: Suite, message: bytes, secret: X25519PrivateKey | MLKEM768X25519PrivateKey, context: bytes
) -> bytes:
    try:
        return suite.decrypt(message, secret, context)
    except (InvalidTag, ValueError):
        raise DecryptionError("it was altered, or encrypted to another key or under another context") from None
