"""Signing keys of the clients, and registers of their public halves (Ed25519).

Each client draws a signing key where it lives, and has its public half registered once, by a channel that the adding
server has no part in. A party with a register tells the message of a client from one that the server has made up. A
register takes the first key that comes for a client and no other one: the party that keeps it, and the channel to it,
are trusted to bind the key to the right client, as an operator's list of certificates would be.

Signatures are checked in the round that they are made in, so that a quantum computer of later years is no use against
them.
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
"""Bytes of a signature."""

REGISTER, LOOK_UP = b"r", b"k"
"""Questions to a register: take a client's public key; return it."""

REGISTER_NAME = "register of the clients' keys"

MAX_CLIENTS = 2**20
"""Keys that a register takes, so that it cannot be filled without end."""

_CLIENT = struct.Struct("<I")

Verify = Callable[[int, bytes, bytes], None]
"""Raises :class:`InvalidUpdate` unless a client has signed a message: called with client, signature and message."""


class KeyDirectory(Protocol):
    """A register, near or behind a line."""

    def take(self, client: int, public: bytes) -> None:
        """Take the public key of a client."""
        ...

    def key_of(self, client: int) -> bytes:
        """Return the public key of a client."""
        ...


class KeyRegister:
    """The clients' public keys, each of which is taken once; also a :class:`~ppml.ipc.process.RequestHandler`."""

    def __init__(self) -> None:
        self._keys: dict[int, bytes] = {}

    def take(self, client: int, public: bytes) -> None:
        """Take the public key of a client.

        Raises
        ------
        InvalidUpdate
            It is no key, another one is registered for this client, or the register is full.
        """
        # Under a key of small order one signature is right for every message.
        if not is_point(public):
            raise InvalidUpdate(f"a signing key of {len(public)} bytes that is none, or of small order")
        if self._keys.get(client, public) != public:
            raise InvalidUpdate(f"another key is registered for client {client}")
        if client not in self._keys and len(self._keys) >= MAX_CLIENTS:
            raise InvalidUpdate(f"the register has the keys of {MAX_CLIENTS} clients and takes no more")
        self._keys[client] = public

    def key_of(self, client: int) -> bytes:
        """Return the public key of a client.

        Raises
        ------
        InvalidUpdate
            None is registered.
        """
        if client not in self._keys:
            raise InvalidUpdate(f"no key is registered for client {client}")
        return self._keys[client]

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Take a key, or return one."""
        if len(content) < _CLIENT.size:
            raise InvalidUpdate("a question to the register that names no client")
        client, rest = _CLIENT.unpack_from(content)[0], content[_CLIENT.size :]
        if what == LOOK_UP:
            return self.key_of(client)
        self.take(client, rest)
        return b""


class KeyRegisterClient(ServerKeyMaterial):
    """A register in another process; keys that were looked up are remembered, since none changes."""

    def __init__(self, line: RpcConnection) -> None:
        self.line = line
        self._known: dict[int, bytes] = {}

    def take(self, client: int, public: bytes) -> None:
        """Have a key registered; see :meth:`KeyRegister.take`."""
        self.line.ask(REGISTER, registration_request(client, public))

    def key_of(self, client: int) -> bytes:
        """Return the public key of a client; see :meth:`KeyRegister.key_of`."""
        if client not in self._known:
            self._known[client] = self.line.ask(LOOK_UP, _CLIENT.pack(client))
        return self._known[client]


class ClientSigners:
    """The signing keys of the clients of one process, each drawn and registered when its client first signs.

    Parameters
    ----------
    register : callable
        Has a public key registered, with each party that is to know it; called with the client and the key.
    """

    def __init__(self, register: Callable[[int, bytes], None]) -> None:
        self._register = register
        self._secrets: dict[int, Ed25519PrivateKey] = {}

    def sign(self, client: int, message: bytes) -> bytes:
        """Return the signature of ``client`` under ``message``, 64 bytes."""
        if client not in self._secrets:
            secret = Ed25519PrivateKey.generate()
            self._register(client, secret.public_key().public_bytes_raw())
            self._secrets[client] = secret
        return self._secrets[client].sign(message)


def registration_request(client: int, public: bytes) -> bytes:
    """Return what asks a register to take a key."""
    return _CLIENT.pack(client) + public


def signature_verifier(keys: KeyDirectory) -> Verify:
    """Return what checks signatures by the keys of a register."""

    def verify(client: int, signature: bytes, message: bytes) -> None:
        public = keys.key_of(client)
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise InvalidUpdate(f"it is not signed by client {client}") from None

    return verify
