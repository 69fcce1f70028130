"""Child processes that answer requests, so that their keys are in no other process.

A request is a message of one code byte and content, a reply one of a status byte and content. Messages to the holders
of keys are bytes and no objects: unpickling runs code of the sender. Two users of this module pickle, between processes
of one program: the workers of clients, and Flower's tasks.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Protocol

from ppml.errors import InvalidUpdate
from ppml.ipc.hardening import harden_process
from ppml.ipc.isolation import IsolationHooks

STOP = b"x"
"""Message on the first connection of a child process that ends it."""

MAX_MESSAGE_BYTES = 2**31 - 1
"""Most bytes of a message; a longer one is refused by its header, before memory is allocated for it."""

STOP_SECONDS = 5.0
"""Seconds from a stop message until a child process is killed."""

LOCK_TIMEOUT_S = 600.0
"""Seconds that a process waits for a connection that another process uses."""

STATUS_OK, STATUS_ERROR = b"+", b"-"

_parent_ends: weakref.WeakSet[Connection] = weakref.WeakSet()
"""This process's ends of the connections to all its child processes."""


class RequestHandler(Protocol):
    """The object in a child process that answers requests, one at a time."""

    def answer(self, code: bytes, content: bytes) -> bytes:
        """Return the reply to a request, or raise :class:`InvalidUpdate` to refuse it.

        Parameters
        ----------
        code : bytes
            One byte, the kind of the request.
        content : bytes
            Content of the request.
        """
        ...


class RpcConnection:
    """A connection to a process that answers requests.

    Parameters
    ----------
    name : str
        Name of that process in error messages.
    connection : Connection
        This end of the connection; forked processes share it.
    max_bytes : int or None
        Most bytes of a request that the process accepts; None: no limit on requests and replies.
    exit_code : callable
        Returns the exit code of the process, for the error message after its end.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        max_bytes: int | None = MAX_MESSAGE_BYTES,
        exit_code: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._name = name
        self._connection = connection
        self._max_bytes = max_bytes
        self._exit_code = exit_code
        self._lock = multiprocessing.get_context("fork").Lock()

    def ask(self, code: bytes, content: bytes = b"") -> bytes:
        """Return the reply to a request.

        Raises
        ------
        InvalidUpdate
            The process refuses the request; the message gives the reason.
        ChildProcessError
            The process has ended.
        """
        # A process killed while it holds the lock never releases it.
        if not self._lock.acquire(timeout=LOCK_TIMEOUT_S):
            raise ChildProcessError(f"the {self._name} cannot be asked: a process that asked it was killed")
        try:
            self.send(code, content)
            return self.receive()
        finally:
            self._lock.release()

    def send(self, code: bytes, content: bytes = b"") -> None:
        """Send a request without waiting for its reply; raises as :meth:`ask` does."""
        if self._max_bytes is not None and len(content) >= self._max_bytes:
            raise InvalidUpdate(
                f"a request of {len(content) + 1} bytes to the {self._name}, which accepts {self._max_bytes}"
            )
        try:
            self._connection.send_bytes(code + content)
        except OSError:
            raise self._error() from None

    def receive(self) -> bytes:
        """Return the reply to the last request; raises as :meth:`ask` does."""
        try:
            reply = self._connection.recv_bytes(None if self._max_bytes is None else MAX_MESSAGE_BYTES)
        except (EOFError, OSError):
            raise self._error() from None
        if reply[:1] == STATUS_ERROR:
            raise InvalidUpdate(reply[1:].decode())
        return reply[1:]

    def close(self) -> None:
        """Close this end in this process; forked processes keep theirs."""
        self._connection.close()

    def _error(self) -> ChildProcessError:
        code = self._exit_code()
        return ChildProcessError(f"the {self._name} has ended" + (f" with exit code {code}" if code else ""))


class ChildProcess:
    """A forked process, with connections to this one, whose end ends it: it reads them, or watches its parent.

    It is forked, so that keys are never pickled or written to disk. Ctrl-C does not reach it: the parent stops it.

    Parameters
    ----------
    name : str
        Name of the process.
    run : callable
        Called in the process with its ends of the connections; it returns at :data:`STOP` on the first connection, and
        when all other ends of that connection are closed.
    connections : int
        Number of connections.
    """

    def __init__(self, name: str, run: Callable[[list[Connection]], None], connections: int = 1) -> None:
        fork = multiprocessing.get_context("fork")
        pipes = [fork.Pipe() for _ in range(connections)]
        self.connections, theirs = [end for end, _ in pipes], [end for _, end in pipes]
        self._parent = os.getpid()
        self._process = fork.Process(target=_run, args=(run, self.connections, theirs), name=name, daemon=True)
        self._process.start()
        for end in theirs:
            end.close()
        _parent_ends.update(self.connections)

    def wait(self) -> int | None:
        """Return the exit code of the process; None if it still runs after `STOP_SECONDS`."""
        self._process.join(timeout=STOP_SECONDS)
        return self._process.exitcode

    def stop(self, *, kill: bool = False) -> None:
        """Stop the process, and kill it after `STOP_SECONDS` or, with `kill`, at once.

        In a process that was forked from the parent later this does nothing.
        """
        if os.getpid() != self._parent:
            return
        if kill:
            self._process.kill()
        # A message, since forked processes may hold this end open as well.
        with contextlib.suppress(OSError), self.connections[0] as first:
            first.send_bytes(STOP)
        if self.wait() is None:
            self._process.kill()
            self._process.join()


def _run(run: Callable[[list[Connection]], None], ours: Sequence[Connection], theirs: list[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for end in ours:
        end.close()
    run(theirs)


def isolate() -> None:
    """Prepare a child process for keys: harden it, and close inherited connections to other child processes."""
    harden_process()
    for end in _parent_ends:
        end.close()


def isolation_hooks(clients: Sequence[RpcConnection], server: Sequence[RpcConnection]) -> IsolationHooks:
    """Return hooks for separate processes: each closes the connections that are only for the other."""

    def at_clients() -> None:
        harden_process()
        for connection in server:
            connection.close()

    def at_server() -> None:
        for connection in clients:
            connection.close()

    return IsolationHooks(at_server, at_clients)


def start_process(
    name: str, make: Callable[[], RequestHandler], allowed: Sequence[frozenset[bytes]]
) -> tuple[list[RpcConnection], Callable[[], None]]:
    """Start an isolated child process, and return connections to it and a function that stops it.

    Parameters
    ----------
    name : str
        Name of the process, for instance ``"holder of the secret key"``.
    make : callable
        Makes the handler of the requests, in the child process, and its keys there.
    allowed : sequence of frozenset of bytes
        Allowed request codes of each connection.
    """

    def run(connections: list[Connection]) -> None:
        isolate()
        serve_requests(name, make(), codes, connections)

    # The first connection stops the process and carries no requests.
    codes = [frozenset[bytes](), *allowed]
    process = ChildProcess(name, run, len(codes))
    return [RpcConnection(name, end) for end in process.connections[1:]], process.stop


def serve_requests(
    name: str,
    handler: RequestHandler,
    allowed: Sequence[frozenset[bytes]],
    connections: Sequence[Connection],
    max_bytes: int | None = MAX_MESSAGE_BYTES,
) -> None:
    """Answer the requests on all connections until the first one is closed or carries :data:`STOP`.

    An unhandled exception of the handler ends the process; its callers get a ChildProcessError.
    """
    served = list(connections)
    while True:
        for connection in wait(served):
            assert isinstance(connection, Connection)
            index, request = connections.index(connection), None
            with contextlib.suppress(EOFError, OSError):
                request = connection.recv_bytes(max_bytes)
            if request is not None and (index or request != STOP):
                reply = dispatch(name, handler, allowed[index], request[:1], request[1:])
                with contextlib.suppress(OSError):
                    connection.send_bytes(reply)
                    continue
            if index == 0:
                return
            served.remove(connection)
            connection.close()


def dispatch(name: str, handler: RequestHandler, allowed: frozenset[bytes], code: bytes, content: bytes) -> bytes:
    """Return the reply to a request with its status, which is an error where the code is not `allowed`."""
    if code not in allowed:
        return STATUS_ERROR + f"the {name} gives no answer to that".encode()
    try:
        return STATUS_OK + handler.answer(code, content)
    except InvalidUpdate as error:
        return STATUS_ERROR + str(error).encode()
