"""The holder of the secret key: a process that publishes the public key and decrypts sums for the clients.

The process generates the key from the operating system's entropy. The secret key leaves it only where all clients share
the key; then the clients' process has it too, which on a CPU is separate from the server's. The holder decrypts only
ciphertexts that the server has announced as sums: an unrestricted decryption oracle would reveal the secret key after
one chosen ciphertext. Two attacks remain. A server that announces a chosen ciphertext has a client decrypt it. A client
can upload one: an upload has no proof that it is well formed, and the sum, which it spoils for all, depends on the key.
"""

from __future__ import annotations

import struct
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np

from ppml.aggregation.envelope import fingerprint
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.interfaces import Parties, ProtectedUpdate, ServerKeyMaterial
from ppml.aggregation.lattice import KeyPair, PublicKeyClients, Scheme, SharedKeyClients, ciphertext_id
from ppml.aggregation.seal_serialization import FILES_IN_MEMORY
from ppml.errors import InvalidUpdate, UserError
from ppml.ipc.process import RpcConnection, isolation_hooks, start_process

KEY_ID, PUBLIC_KEY, ANNOUNCE, DECRYPT, SECRET_KEY = b"m", b"p", b"a", b"o", b"s"
"""Requests: the fingerprint of the public key; the key; announce a sum; decrypt a sum; the secret key."""

KEY_HOLDER = "holder of the secret key"
SERVER_REQUESTS = frozenset({KEY_ID, PUBLIC_KEY, ANNOUNCE})
CLIENT_REQUESTS = {
    "public": frozenset({KEY_ID, PUBLIC_KEY, DECRYPT}),
    "shared": frozenset({KEY_ID, PUBLIC_KEY, SECRET_KEY}),
}
"""Allowed requests of clients, by the kind of key; clients with the secret key decrypt sums themselves."""

_LENGTH = struct.Struct("<Q")

CACHED_SUMS = 4
"""Decrypted sums in the cache: all clients ask for the same sum, one after the other."""


class KeyHolderService:
    """The keys of one run.

    Parameters
    ----------
    scheme : Scheme
        The encryption scheme.
    rounds_per_key : int or None
        Number of sums per key; None for one key in the whole run.
    """

    def __init__(self, scheme: Scheme, rounds_per_key: int | None = None) -> None:
        self._scheme, self._rounds_per_key = scheme, rounds_per_key
        self._current = KeyPair(scheme)
        # A client that missed a round asks for a sum under an earlier key.
        self._all = {self._current.fingerprint: self._current}
        self._decrypted: OrderedDict[bytes, Grid] = OrderedDict()
        self._announced: set[bytes] = set()
        self._sums_under_current = 0

    def public(self) -> bytes:
        """Return the current public key; generate a new pair where the old one has served its rounds."""
        if self._rounds_per_key is not None and self._sums_under_current >= self._rounds_per_key:
            self._current, self._sums_under_current = KeyPair(self._scheme), 0
            self._all[self._current.fingerprint] = self._current
        return self._current.public

    def announce(self, name: bytes) -> None:
        """Allow the decryption of the sum with the identifier ``name``."""
        if name not in self._announced and name.startswith(self._current.fingerprint):
            self._sums_under_current += 1
        self._announced.add(name)

    def secret(self) -> bytes:
        """Return the secret key, for clients that share it."""
        return self._current.secret()

    def decrypt(self, total: ProtectedUpdate) -> Grid:
        """Return a sum as exact grid points.

        Raises
        ------
        InvalidUpdate
            The server has not announced the sum, or the sum is damaged.
        """
        name = ciphertext_id(total)
        if name not in self._announced:
            raise InvalidUpdate("the server has not announced this sum")
        if name not in self._decrypted:
            keys = self._all.get(name[: len(self._current.fingerprint)], self._current)
            self._decrypted[name] = keys.decrypt(total)
            if len(self._decrypted) > CACHED_SUMS:
                self._decrypted.popitem(last=False)
        return self._decrypted[name]

    def answer(self, code: bytes, content: bytes) -> bytes:
        """Return the reply to a request."""
        match code:
            case b"m":
                return fingerprint(self.public())
            case b"p":
                return self.public()
            case b"s":
                return self.secret()
            case b"a":
                self.announce(content)
                return b""
        try:
            (length,) = _LENGTH.unpack_from(content)
            total = ProtectedUpdate(self._scheme.name, length, content[_LENGTH.size :])
            return self.decrypt(total).astype("<i8").tobytes()
        except (RuntimeError, ValueError, struct.error) as error:
            raise InvalidUpdate(str(error)) from None


class PublicKeyClient(ServerKeyMaterial):
    """The server's connection to the key holder: it fetches the public key and announces sums."""

    def __init__(self, connection: RpcConnection) -> None:
        self._connection = connection
        self._key, self._fingerprint = b"", b""

    def __call__(self) -> bytes:
        """Return the public key of the round; a key is transferred once."""
        if self._connection.ask(KEY_ID) != self._fingerprint:
            self._key = self._connection.ask(PUBLIC_KEY)
            self._fingerprint = fingerprint(self._key)
        return self._key

    def announce(self, total: ProtectedUpdate) -> None:
        """Announce ``total`` as a sum that the holder may decrypt."""
        self._connection.ask(ANNOUNCE, ciphertext_id(total))


class KeyHolderClient:
    """The clients' connection to the key holder."""

    def __init__(self, connection: RpcConnection) -> None:
        self._connection = connection
        self.public = PublicKeyClient(connection)

    def decrypt(self, total: ProtectedUpdate) -> Grid:
        """Return a sum as exact grid points."""
        reply = self._connection.ask(DECRYPT, _LENGTH.pack(total.length) + total.payload)
        return np.frombuffer(reply, dtype="<i8")


def lattice_parties(make: Callable[[], Scheme], keys: str, rounds_per_key: int | None) -> Parties:
    """Return the parties of an encrypted aggregation, with a key holder in a process of its own.

    Parameters
    ----------
    make : callable
        Returns the scheme; the holder creates its own.
    keys : {"public", "shared"}
        Key that clients encrypt under.
    rounds_per_key : int or None
        Number of sums per key.

    Raises
    ------
    UserError
        The secret key would be written to a disk on its way to the clients, because SEAL writes to files.
    """
    if keys == "shared" and not FILES_IN_MEMORY:
        raise UserError(
            "aggregation.keys: got 'shared'; this system has no files in memory, so that the secret key would be "
            "written to a disk; allowed: public"
        )
    connections, stop = start_process(
        KEY_HOLDER, lambda: KeyHolderService(make(), rounds_per_key), [CLIENT_REQUESTS[keys], SERVER_REQUESTS]
    )
    clients, server = connections[0], PublicKeyClient(connections[1])
    side = (
        PublicKeyClients(make(), KeyHolderClient(clients))
        if keys == "public"
        else SharedKeyClients(make(), fingerprint(server()), partial(clients.ask, SECRET_KEY))
    )
    # The finalizer also stops the process of clients that are not closed, so that no key outlives the run.
    return Parties(side, server, weakref.finalize(side, stop), isolation_hooks([clients], [connections[1]]))
