"""A party of an aggregation in a process of its own: what it knows, such as a secret key, nobody else has in memory.

Nor may other programs of the same user look into its memory, or a crash write it to a disk: see
:mod:`ppml.ipc.hardening`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from ppml.aggregation.interfaces import Apart, BadUpdate
from ppml.ipc.hardening import seclude

STOP = b"x"
"""What ends a party; who has started it may say so, and what that has forked."""

LONGEST = 2**31 - 1
"""Most bytes of a message: a longer one is refused by its first bytes, before there is memory for it."""

STOP_SECONDS = 5.0
"""How long a process may take to end before it is killed."""

TURN_SECONDS = 600.0
"""How long one waits for others that ask."""

_GIVEN, _REFUSED = b"+", b"-"

_near: weakref.WeakSet[Connection] = weakref.WeakSet()
"""This process's ends of the lines to all its parties."""


class Party(Protocol):
    """What lives in the process."""

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return the answer to a question, or raise :class:`BadUpdate`.

        Parameters
        ----------
        what : bytes
            One byte, which of the questions.
        content : bytes
            What goes with it. Bytes and no objects, since unpickling runs what it is sent.
        """
        ...


class Line:
    """A connection to a party, on which one asks at a time.

    Parameters
    ----------
    name : str
        What the party is called where it is gone.
    connection : Connection
        This end of it; processes that are forked share it.
    longest : int
        Most bytes of a question that the party takes.
    """

    def __init__(self, name: str, connection: Connection, longest: int = LONGEST) -> None:
        self._name = name
        self._connection = connection
        self._longest = longest
        self._turn = multiprocessing.get_context("fork").Lock()

    def ask(self, what: bytes, content: bytes = b"") -> bytes:
        """Return the party's answer.

        Raises
        ------
        BadUpdate
            The party refuses; the message says why.
        ChildProcessError
            It is gone.
        """
        if len(content) >= self._longest:
            raise BadUpdate(f"a question of {len(content) + 1} bytes to the {self._name}, which takes {self._longest}")
        # One that was killed while it was asking never gives its turn back.
        if not self._turn.acquire(timeout=TURN_SECONDS):
            raise ChildProcessError(f"the {self._name} is waiting for another process that has asked and is gone")
        try:
            self._connection.send_bytes(what + content)
            answer = self._connection.recv_bytes(LONGEST)
        except (EOFError, OSError):
            raise ChildProcessError(f"the {self._name} is gone, and all that it held with it") from None
        finally:
            self._turn.release()
        if answer[:1] == _REFUSED:
            raise BadUpdate(answer[1:].decode())
        return answer[1:]

    def close(self) -> None:
        """Close this end in this process; those that were forked keep theirs."""
        self._connection.close()


def parted(clients: Sequence[Line], server: Sequence[Line]) -> Apart:
    """Return what is done where clients and server part: each closes the other's lines, and the clients are secluded.

    Parameters
    ----------
    clients, server : sequence of Line
        The lines that are for the clients alone, and for the server alone.
    """

    def at_clients() -> None:
        seclude()
        for line in server:
            line.close()

    def at_server() -> None:
        for line in clients:
            line.close()

    return Apart(at_server, at_clients)


def start_party(
    name: str, make: Callable[[], Party], allowed: Sequence[frozenset[bytes]]
) -> tuple[list[Line], Callable[[], None]]:
    """Start a party, and return its lines and what ends it.

    Parameters
    ----------
    name : str
        What it is called, for instance ``"holder of the secret key"``.
    make : callable
        Makes it, in its process, where it draws its keys.
    allowed : sequence of frozenset of bytes
        For each line, which questions it may carry.
    """
    fork = multiprocessing.get_context("fork")
    # The first is for ending it alone.
    allowed = [frozenset(), *allowed]
    pipes = [fork.Pipe() for _ in allowed]
    near, far = [ours for ours, _ in pipes], [theirs for _, theirs in pipes]
    # Forked: what it is made of is not written anywhere.
    process = fork.Process(target=_serve, args=(name, make, allowed, near, far), name=name, daemon=True)
    process.start()
    for end in far:
        end.close()
    _near.update(near)
    parent = os.getpid()
    return [Line(name, end) for end in near[1:]], lambda: _end(process, near[0], parent)


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
    name: str,
    make: Callable[[], Party],
    allowed: Sequence[frozenset[bytes]],
    near: Sequence[Connection],
    far: Sequence[Connection],
) -> None:
    """Answer until it is told to end, or until who started it is gone, and all that it has forked."""
    # Ctrl-C is for who started it, and who then ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before there is a key.
    seclude()
    # Those to parties that were started before are not for this one.
    for end in [*near, *_near]:
        end.close()
    party = make()
    left = list(far)
    while True:
        for line in wait(left):
            assert isinstance(line, Connection)
            place = far.index(line)
            question = _heard(line)
            if place == 0 and question in (STOP, None):
                return
            # What a party fails with ends it: whoever waits for its answer is told that it is gone.
            if question is None or not _said(line, answered(name, party, allowed[place], question[:1], question[1:])):
                # Nobody asks on this line any more.
                left.remove(line)
                line.close()


def _heard(line: Connection) -> bytes | None:
    """Return what is asked, or None where nobody is left to ask."""
    try:
        return line.recv_bytes(LONGEST)
    except (EOFError, OSError):
        return None


def _said(line: Connection, answer: bytes) -> bool:
    """Say ``answer``, and return whether somebody is left to hear it."""
    try:
        line.send_bytes(answer)
    except OSError:
        return False
    return True


def answered(name: str, party: Party, allowed: frozenset[bytes], what: bytes, content: bytes) -> bytes:
    """Return what a :class:`Line` takes for the party's answer, or for its refusal of what is not ``allowed``."""
    if what not in allowed:
        return _REFUSED + f"the {name} gives no answer to that".encode()
    try:
        return _GIVEN + party.answer(what, content)
    except BadUpdate as error:
        return _REFUSED + str(error).encode()
