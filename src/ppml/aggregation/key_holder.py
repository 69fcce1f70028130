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

from ppml.aggregation.envelope import mark_of
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.interfaces import BadUpdate, Parties, PublicMaterial, Sealed
from ppml.aggregation.lattice import Keys, PublicKeyClients, Scheme, SharedKeyClients, name_of
from ppml.aggregation.seal_serialization import FILES_IN_MEMORY
from ppml.errors import UserError
from ppml.ipc.process import Line, parted, start_party

MARK, PUBLIC, ANNOUNCE, OPEN, SECRET = b"m", b"p", b"a", b"o", b"s"
"""What is said: what is the public key of now known by; what is it; this is a sum; open it; what is the secret key."""

HOLDER = "holder of the secret key"
BY_SERVER = frozenset({MARK, PUBLIC, ANNOUNCE})
BY_CLIENTS = {"public": frozenset({MARK, PUBLIC, OPEN}), "shared": frozenset({MARK, PUBLIC, SECRET})}
"""Who may say what, clients by what they encrypt under: who shares the key opens sums without the holder."""

_COUNT = struct.Struct("<Q")

REMEMBERED = 4
"""Sums that the holder remembers: all clients ask for the same one, one after the other."""


class KeyRing:
    """The keys of one run.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    rounds_a_key : int or None
        After how many sums a new key is made; None: one key for the whole run.
    """

    def __init__(self, scheme: Scheme, rounds_a_key: int | None = None) -> None:
        self._scheme, self._rounds_a_key = scheme, rounds_a_key
        self._current = Keys(scheme)
        # Who has missed a round asks for a sum under an earlier one.
        self._all = {self._current.mark: self._current}
        self._opened: OrderedDict[bytes, Grid] = OrderedDict()
        self._announced: set[bytes] = set()
        self._under_current = 0

    def public(self) -> bytes:
        """Return the public key that updates are to be encrypted under now."""
        if self._rounds_a_key is not None and self._under_current >= self._rounds_a_key:
            self._current, self._under_current = Keys(self._scheme), 0
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

    def open(self, total: Sealed) -> Grid:
        """Return a sum as exact grid points.

        Raises
        ------
        BadUpdate
            The server has not announced it, or it is damaged.
        """
        name = name_of(total)
        if name not in self._announced:
            raise BadUpdate("it is no sum that the server has announced")
        if name not in self._opened:
            keys = self._all.get(name[: len(self._current.mark)], self._current)
            self._opened[name] = keys.open(total)
            if len(self._opened) > REMEMBERED:
                self._opened.popitem(last=False)
        return self._opened[name]

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return what is asked for, as bytes."""
        match what:
            case b"m":
                return mark_of(self.public())
            case b"p":
                return self.public()
            case b"s":
                return self.secret()
            case b"a":
                self.announce(content)
                return b""
        try:
            (length,) = _COUNT.unpack_from(content)
            return self.open(Sealed(self._scheme.name, length, content[_COUNT.size :])).astype("<i8").tobytes()
        except (RuntimeError, ValueError, struct.error) as error:
            raise BadUpdate(str(error)) from None


class PublicLine(PublicMaterial):
    """What the server has of the holder: a line on which it gives the public key, and is told what is a sum."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._key, self._mark = b"", b""

    def __call__(self) -> bytes:
        """Return the public key of the round, which is sent only where it is a new one."""
        if self._line.ask(MARK) != self._mark:
            self._key = self._line.ask(PUBLIC)
            self._mark = mark_of(self._key)
        return self._key

    def announce(self, total: Sealed) -> None:
        """Tell the holder that it may open ``total``."""
        self._line.ask(ANNOUNCE, name_of(total))


class HolderLine:
    """What the clients have of the holder."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.public = PublicLine(line)

    def open(self, total: Sealed) -> Grid:
        """Return a sum as exact grid points."""
        return np.frombuffer(self._line.ask(OPEN, _COUNT.pack(total.length) + total.payload), dtype="<i8")


def lattice_parties(make: Callable[[], Scheme], keys: str, rounds_a_key: int | None) -> Parties:
    """Return the parties of an encrypted aggregation, whose keys are made in a process of its own.

    Parameters
    ----------
    make : callable
        Returns the scheme; the holder makes one of its own.
    keys : {"public", "shared"}
        What updates are encrypted under.
    rounds_a_key : int or None
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
    lines, end = start_party(HOLDER, lambda: KeyRing(make(), rounds_a_key), [BY_CLIENTS[keys], BY_SERVER])
    clients, server = lines[0], PublicLine(lines[1])
    side = (
        PublicKeyClients(make(), HolderLine(clients))
        if keys == "public"
        else SharedKeyClients(make(), mark_of(server()), partial(clients.ask, SECRET))
    )
    # Also where nobody closes it: a process that holds a key shall not stay.
    return Parties(side, server, weakref.finalize(side, end), parted([clients], [lines[1]]))
