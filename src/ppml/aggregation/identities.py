"""Signing keys of the clients, and registers of their public keys (Ed25519).

Each client generates a signing key and registers its public key once, through a channel that excludes the aggregating
server. A party with a register can then distinguish the message of a client from a fabrication of the server. A
register accepts the first key of a client and no other: its operator, and the channel to it, are trusted to bind the
key to the right client, as with an operator's list of certificates.

Signatures are verified in the round in which they are made, so a later quantum computer gains nothing from them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ppml.aggregation.group import is_point
from ppml.aggregation.interfaces import ServerKeyMaterial
from ppml.errors import InvalidUpdate
from ppml.ipc.process import RpcConnection

SIGNATURE_BYTES: Final = 64

REGISTER, LOOK_UP = b"r", b"k"
"""Requests to a register: register a client's public key; return it."""

REGISTER_NAME = "register of the clients' keys"

MAX_CLIENTS = 2**20
"""Keys in a register, so that no client can fill its memory."""

_CLIENT = struct.Struct("<I")

Verify = Callable[[int, bytes, bytes], None]
"""Called with a client, a signature and a message; raises :class:`~ppml.errors.InvalidUpdate` if they do not match."""


class KeyDirectory(Protocol):
    """A register, in this process or another one."""

    def register(self, client: int, public: bytes) -> None:
        """Register the public key of a client."""
        ...

    def public_key(self, client: int) -> bytes:
        """Return the public key of a client."""
        ...


class KeyRegister:
    """The clients' public keys, one per client; also a :class:`~ppml.ipc.process.RequestHandler`."""

    def __init__(self) -> None:
        self._keys: dict[int, bytes] = {}

    def register(self, client: int, public: bytes) -> None:
        """Register the public key of a client.

        Raises
        ------
        InvalidUpdate
            The key is invalid, the client has another key, or the register is full.
        """
        # Under a key of small order one signature is valid for every message.
        if not is_point(public):
            raise InvalidUpdate(f"a signing key of {len(public)} bytes that is invalid, or of small order")
        if self._keys.get(client, public) != public:
            raise InvalidUpdate(f"another key is registered for client {client}")
        if client not in self._keys and len(self._keys) >= MAX_CLIENTS:
            raise InvalidUpdate(f"the register is full: it has the keys of {MAX_CLIENTS} clients")
        self._keys[client] = public

    def public_key(self, client: int) -> bytes:
        """Return the public key of a client.

        Raises
        ------
        InvalidUpdate
            The client has no registered key.
        """
        if client not in self._keys:
            raise InvalidUpdate(f"no key is registered for client {client}")
        return self._keys[client]

    def answer(self, code: bytes, content: bytes) -> bytes:
        """Register a key, or return one."""
        if len(content) < _CLIENT.size:
            raise InvalidUpdate("a request to the register without a client")
        client, rest = _CLIENT.unpack_from(content)[0], content[_CLIENT.size :]
        if code == LOOK_UP:
            return self.public_key(client)
        self.register(client, rest)
        return b""


class KeyRegisterClient(ServerKeyMaterial):
    """A connection to a register in another process, with a cache of keys, since no key changes."""

    def __init__(self, connection: RpcConnection) -> None:
        self.connection = connection
        self._known: dict[int, bytes] = {}

    def register(self, client: int, public: bytes) -> None:
        """Register a key; see :meth:`KeyRegister.register`."""
        self.connection.ask(REGISTER, registration_request(client, public))

    def public_key(self, client: int) -> bytes:
        """Return the public key of a client; see :meth:`KeyRegister.public_key`."""
        if client not in self._known:
            self._known[client] = self.connection.ask(LOOK_UP, _CLIENT.pack(client))
        return self._known[client]


class ClientSigners:
    """The signing keys of the clients in this process, generated and registered at their first signatures.

    Parameters
    ----------
    register : callable
        Registers a public key with each verifier; called with the client and the key.
    """

    def __init__(self, register: Callable[[int, bytes], None]) -> None:
        self._register = register
        self._secrets: dict[int, Ed25519PrivateKey] = {}

    def sign(self, client: int, message: bytes) -> bytes:
        """Return the signature of ``client`` for ``message``, 64 bytes."""
        if client not in self._secrets:
            secret = Ed25519PrivateKey.generate()
            self._register(client, secret.public_key().public_bytes_raw())
            self._secrets[client] = secret
        return self._secrets[client].sign(message)


def registration_request(client: int, public: bytes) -> bytes:
    """Return the content of a request to register a key."""
    return _CLIENT.pack(client) + public


def signature_verifier(keys: KeyDirectory) -> Verify:
    """Return a function that verifies signatures with the keys of a register."""

    def verify(client: int, signature: bytes, message: bytes) -> None:
        public = keys.public_key(client)
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise InvalidUpdate(f"the message is not signed by client {client}") from None

    return verify
