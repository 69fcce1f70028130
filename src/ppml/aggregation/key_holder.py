"""The holder of the secret key: a process of its own, which gives the public key to all and opens sums for the clients.

The key is made there, from the operating system's entropy, and leaves it only where all clients share it. The process
that the server runs in never has it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import struct
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import numpy as np

from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.lattice import Keys, PublicKeyClients, Scheme, SharedKeyClients, mark_of
from ppml.aggregation.protocol import BadUpdate, Parties, Sealed

PUBLIC, OPEN, SECRET, STOP = b"p", b"o", b"s", b"x"
"""What may be asked: the public key, a sum, the secret key, to end. Bytes, since unpickling runs what it is sent."""

GIVEN, REFUSED = b"+", b"-"
_COUNT = struct.Struct("<Q")

REMEMBERED = 4
"""Sums that the holder remembers: all clients ask for the same one, one after the other."""

STOP_SECONDS = 5.0
"""How long the holder's process may take to end before it is killed."""


class KeyRing:
    """The keys of one run.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    rounds_a_key : int or None
        After how many sums a new key is made; None: one key for the whole run.

    Attributes
    ----------
    scheme : str
        Name of the scheme.
    """

    def __init__(self, scheme: Scheme, rounds_a_key: int | None = None) -> None:
        self._scheme, self._rounds_a_key = scheme, rounds_a_key
        self.scheme = scheme.name
        self._current = Keys(scheme)
        # Who has missed a round asks for a sum under an earlier one.
        self._all = {self._current.mark: self._current}
        self._opened: OrderedDict[bytes, Grid] = OrderedDict()
        self._sums = 0

    def public(self) -> bytes:
        """Return the public key that updates are to be encrypted under now."""
        if self._rounds_a_key is not None and self._sums >= self._rounds_a_key:
            self._current, self._sums = Keys(self._scheme), 0
            self._all[self._current.mark] = self._current
        return self._current.public

    def secret(self) -> bytes:
        """Return the secret key, for clients that share it."""
        return self._current.secret()

    def open(self, total: Sealed) -> Grid:
        """Return a sum as exact grid points.

        Raises
        ------
        BadUpdate
            It is damaged, or under a key that was not made here.
        """
        name = mark_of(total.payload)
        if name not in self._opened:
            keys = self._all.get(total.payload[: len(self._current.mark)], self._current)
            self._opened[name] = keys.open(total)
            self._sums += keys is self._current
            if len(self._opened) > REMEMBERED:
                self._opened.popitem(last=False)
        return self._opened[name]


class Line:
    """A connection to the holder, on which one asks at a time.

    Parameters
    ----------
    connection : Connection
        This end of it; processes that are forked share it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = multiprocessing.get_context("fork").Lock()

    def ask(self, what: bytes, content: bytes = b"") -> bytes:
        """Return the holder's answer.

        Raises
        ------
        BadUpdate
            What was to be opened is no sum of this run.
        ChildProcessError
            The holder is gone.
        """
        with self._turn:
            try:
                self._connection.send_bytes(what + content)
                answer = self._connection.recv_bytes()
            except (EOFError, OSError):
                raise ChildProcessError("the holder of the secret key is gone, and its key with it") from None
        if answer[:1] == REFUSED:
            raise BadUpdate(answer[1:].decode())
        return answer[1:]


class PublicLine:
    """What the server has of the holder: a connection on which it gives the public key and nothing else."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __call__(self) -> bytes:
        """Return the public key of the round."""
        return self._line.ask(PUBLIC)


class HolderLine:
    """What the clients have of the holder."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def public(self) -> bytes:
        """Return the public key of the round."""
        return self._line.ask(PUBLIC)

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
    """
    fork = multiprocessing.get_context("fork")
    (clients_end, far_clients), (server_end, far_server) = fork.Pipe(), fork.Pipe()
    near, far = (clients_end, server_end), (far_clients, far_server)
    process = fork.Process(target=_serve, args=(make, keys, rounds_a_key, near, far), name="key-holder", daemon=True)
    process.start()
    far_clients.close()
    far_server.close()
    for_clients, for_server = Line(clients_end), PublicLine(Line(server_end))
    side = (
        PublicKeyClients(make(), HolderLine(for_clients))
        if keys == "public"
        else SharedKeyClients(make(), mark_of(for_server()), for_clients.ask(SECRET))
    )
    # Also where nobody closes it: a process that holds a key shall not stay.
    close = weakref.finalize(side, _end, process, clients_end, os.getpid())
    return Parties(side, for_server, close)


def _end(process: BaseProcess, line: Connection, parent: int) -> None:
    # Not from a process that was forked later, in which clients live.
    if os.getpid() != parent:
        return
    with contextlib.suppress(OSError):
        line.send_bytes(STOP)
    process.join(timeout=STOP_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()


def _serve(
    make: Callable[[], Scheme],
    keys: str,
    rounds_a_key: int | None,
    near: Sequence[Connection],
    far: tuple[Connection, Connection],
) -> None:
    """Answer until the clients say that it is over, or are gone: then the last of the ends that are theirs closes."""
    for end in near:
        end.close()
    clients, server = far
    ring = KeyRing(make(), rounds_a_key)
    while True:
        for line in wait([clients, server]):
            assert isinstance(line, Connection)
            try:
                question = line.recv_bytes()
            except EOFError:
                return
            what = question[:1]
            if what == STOP and line is clients:
                return
            allowed = {PUBLIC, OPEN, SECRET} if keys == "shared" else {PUBLIC, OPEN}
            if what not in (allowed if line is clients else {PUBLIC}):
                answer = REFUSED + b"the holder of the secret key gives no answer to that"
            else:
                answer = _answer(ring, what, question[1:])
            line.send_bytes(answer)


def _answer(ring: KeyRing, what: bytes, content: bytes) -> bytes:
    if what == PUBLIC:
        return GIVEN + ring.public()
    if what == SECRET:
        return GIVEN + ring.secret()
    try:
        (length,) = _COUNT.unpack_from(content)
        opened = ring.open(Sealed(ring.scheme, length, content[_COUNT.size :]))
    except (BadUpdate, RuntimeError, ValueError, struct.error) as error:
        return REFUSED + str(error).encode()
    return GIVEN + opened.astype("<i8").tobytes()
