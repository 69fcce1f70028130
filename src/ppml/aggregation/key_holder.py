"""The holder of the secret key: a process of its own, which gives the public key to all and opens sums for the clients.

The key is made there, from the operating system's entropy, and leaves it only where all clients share it: then it is
also in the process that they live in, which on a CPU is not the server's. Opened is what the server has announced as a
sum, and nothing else: who could have anything opened would have the secret key after one question, by a ciphertext that
decrypts to it. With a server that announces such a one a client still has it opened. So has one whose *upload* is such
a ciphertext: nothing proves that an upload is well formed, and the sum that it is in, which it spoils for all, tells of
the key.
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
from ppml.aggregation.interfaces import Parties, ServerKeyMaterial, ProtectedUpdate
from ppml.aggregation.lattice import KeyPair, PublicKeyClients, Scheme, SharedKeyClients, ciphertext_id
from ppml.aggregation.seal_serialization import FILES_IN_MEMORY
from ppml.errors import InvalidUpdate, UserError
from ppml.ipc.process import RpcConnection, isolation_hooks, start_process

KEY_ID, PUBLIC_KEY, ANNOUNCE, DECRYPT, SECRET_KEY = b"m", b"p", b"a", b"o", b"s"
"""What is said: what is the public key of now known by; what is it; this is a sum; open it; what is the secret key."""

KEY_HOLDER = "holder of the secret key"
SERVER_REQUESTS = frozenset({KEY_ID, PUBLIC_KEY, ANNOUNCE})
CLIENT_REQUESTS = {"public": frozenset({KEY_ID, PUBLIC_KEY, DECRYPT}), "shared": frozenset({KEY_ID, PUBLIC_KEY, SECRET_KEY})}
"""Who may say what, clients by what they encrypt under: who shares the key opens sums without the holder."""

_LENGTH = struct.Struct("<Q")

CACHED_SUMS = 4
"""Sums that the holder remembers: all clients ask for the same one, one after the other."""


class KeyHolderService:
    """The keys of one run.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    rounds_per_key : int or None
        After how many sums a new key is made; None: one key for the whole run.
    """

    def __init__(self, scheme: Scheme, rounds_per_key: int | None = None) -> None:
        self._scheme, self._rounds_per_key = scheme, rounds_per_key
        self._current = KeyPair(scheme)
        # Who has missed a round asks for a sum under an earlier one.
        self._all = {self._current.mark: self._current}
        self._opened: OrderedDict[bytes, Grid] = OrderedDict()
        self._announced: set[bytes] = set()
        self._under_current = 0

    def public(self) -> bytes:
        """Return the public key that updates are to be encrypted under now."""
        if self._rounds_per_key is not None and self._under_current >= self._rounds_per_key:
            self._current, self._under_current = KeyPair(self._scheme), 0
            self._all[self._current.mark] = self._current
        return self._current.public

    def announce(self, name: bytes) -> None:
        """Take note of a sum that may be opened."""
        if name not in self._announced and name.startswith(self._current.mark):
            self._under_current += 1
        self._announced.add(name)

    def secret(self) -> bytes:
        """Return the secret key, for clients that share it."""
        return self._current.secret()

    def open(self, total: ProtectedUpdate) -> Grid:
        """Return a sum as exact grid points.

        Raises
        ------
        InvalidUpdate
            The server has not announced it, or it is damaged.
        """
        name = ciphertext_id(total)
        if name not in self._announced:
            raise InvalidUpdate("it is no sum that the server has announced")
        if name not in self._opened:
            keys = self._all.get(name[: len(self._current.mark)], self._current)
            self._opened[name] = keys.open(total)
            if len(self._opened) > CACHED_SUMS:
                self._opened.popitem(last=False)
        return self._opened[name]

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return what is asked for, as bytes."""
        match what:
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
            return self.open(ProtectedUpdate(self._scheme.name, length, content[_LENGTH.size :])).astype("<i8").tobytes()
        except (RuntimeError, ValueError, struct.error) as error:
            raise InvalidUpdate(str(error)) from None


class PublicKeyClient(ServerKeyMaterial):
    """What the server has of the holder: a line on which it gives the public key, and is told what is a sum."""

    def __init__(self, line: RpcConnection) -> None:
        self._line = line
        self._key, self._mark = b"", b""

    def __call__(self) -> bytes:
        """Return the public key of the round, which is sent only where it is a new one."""
        if self._line.ask(KEY_ID) != self._mark:
            self._key = self._line.ask(PUBLIC_KEY)
            self._mark = fingerprint(self._key)
        return self._key

    def announce(self, total: ProtectedUpdate) -> None:
        """Tell the holder that it may open ``total``."""
        self._line.ask(ANNOUNCE, ciphertext_id(total))


class KeyHolderClient:
    """What the clients have of the holder."""

    def __init__(self, line: RpcConnection) -> None:
        self._line = line
        self.public = PublicKeyClient(line)

    def open(self, total: ProtectedUpdate) -> Grid:
        """Return a sum as exact grid points."""
        return np.frombuffer(self._line.ask(DECRYPT, _LENGTH.pack(total.length) + total.payload), dtype="<i8")


def lattice_parties(make: Callable[[], Scheme], keys: str, rounds_per_key: int | None) -> Parties:
    """Return the parties of an encrypted aggregation, whose keys are made in a process of its own.

    Parameters
    ----------
    make : callable
        Returns the scheme; the holder makes one of its own.
    keys : {"public", "shared"}
        What updates are encrypted under.
    rounds_per_key : int or None
        After how many sums a new key is made.

    Raises
    ------
    UserError
        The secret key would be written to a disk on its way to the clients: SEAL writes to files.
    """
    if keys == "shared" and not FILES_IN_MEMORY:
        raise UserError(
            "aggregation.keys: got 'shared'; this system has no files in memory, so that the secret key would be "
            "written to a disk; allowed: public"
        )
    lines, end = start_process(KEY_HOLDER, lambda: KeyHolderService(make(), rounds_per_key), [CLIENT_REQUESTS[keys], SERVER_REQUESTS])
    clients, server = lines[0], PublicKeyClient(lines[1])
    side = (
        PublicKeyClients(make(), KeyHolderClient(clients))
        if keys == "public"
        else SharedKeyClients(make(), fingerprint(server()), partial(clients.ask, SECRET_KEY))
    )
    # Also where nobody closes it: a process that holds a key shall not stay.
    return Parties(side, server, weakref.finalize(side, end), isolation_hooks([clients], [lines[1]]))
