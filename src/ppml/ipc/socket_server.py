"""A process that answers requests of other programs, through Unix sockets that authenticate their clients.

A client is authenticated by the challenge of Python's ``multiprocessing.connection``, in both directions, before any of
its requests is read; then it uses the connection like one to a child process (:mod:`ppml.ipc.process`). Messages are
not encrypted: a socket within one machine needs no encryption, and between machines a tunnel encrypts.

A client may send any bytes, or stop in the middle of a message, and others are still served: each endpoint limits the
bytes of a message, the seconds for the authentication and for a message that has begun, and the number of connections.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import NamedTuple

from ppml.io.private_file import write_private
from ppml.ipc.process import MAX_MESSAGE_BYTES, ChildProcess, RequestHandler, RpcConnection, dispatch, isolate

CLIENT_ENDPOINT, SERVER_ENDPOINT = "holder-for-clients.json", "holder-for-server.json"
"""Files of the key holder's endpoints: the first for the clients alone, the second for the server."""

KEY_BYTES = 32
RETRY_SECONDS = 0.1
"""Seconds before accepting again after ``accept()`` failed."""

AUTHENTICATION_SECONDS = 20.0
"""Seconds that the authentication of a client may take."""

MESSAGE_SECONDS = 120.0
"""Seconds from the first byte of a message to its last, in either direction."""

MAX_UNAUTHENTICATED, MAX_CONNECTIONS = 64, 1024
"""Connections of an endpoint before authentication, others wait; and after it, others are closed."""

READY = b"ready"


class EndpointSpec(NamedTuple):
    """The requests of one endpoint.

    Parameters
    ----------
    codes : frozenset of bytes
        Allowed request codes.
    max_bytes : int
        Most bytes of a request.
    """

    codes: frozenset[bytes]
    max_bytes: int = MAX_MESSAGE_BYTES


@contextmanager
def serve_sockets(
    name: str, make: Callable[[], RequestHandler], folder: Path, endpoints: Mapping[str, EndpointSpec]
) -> Iterator[None]:
    """Start an isolated process that answers requests on sockets; it ends with the block.

    Parameters
    ----------
    name : str
        Name of the process.
    make : callable
        Makes the handler of the requests, in the process, and its keys there.
    folder : Path
        Folder for a file of each endpoint, with its address and its key: the readers of that file can connect.
    endpoints : mapping of str to EndpointSpec
        Allowed requests, by the name of the endpoint's file.

    Raises
    ------
    ChildProcessError
        The handler or the sockets cannot be made; the message gives the reason.
    """
    with ExitStack() as stack:
        # Other users cannot list this folder, and the path of a socket must be short.
        sockets = Path(tempfile.mkdtemp(prefix="ppml-"))
        stack.callback(_remove, sockets, folder, endpoints)
        process = ChildProcess(name, partial(_serve, name, make, sockets, folder, endpoints))
        stack.callback(process.stop)
        try:
            status = process.connections[0].recv_bytes()
        except (EOFError, OSError):
            status = b"it has ended"
        if status != READY:
            raise ChildProcessError(f"the {name} cannot be made: {status.decode()}")
        yield


def connect(name: str, endpoint: Path) -> RpcConnection:
    """Return a connection to the process ``name`` through the file of an endpoint.

    Raises
    ------
    ChildProcessError
        The process has ended, or does not accept the key in this file.
    """
    try:
        known = json.loads(endpoint.read_text(encoding="utf-8"))
        key, max_bytes = bytes.fromhex(known["key"]), int(known["longest"])
        return RpcConnection(name, Client(known["address"], "AF_UNIX", authkey=key), max_bytes)
    except (AuthenticationError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise ChildProcessError(f"the {name} cannot be reached by {endpoint}: {error}") from None


def _remove(sockets: Path, folder: Path, endpoints: Mapping[str, EndpointSpec]) -> None:
    shutil.rmtree(sockets, ignore_errors=True)
    for file in endpoints:
        (folder / file).unlink(missing_ok=True)


def _serve(
    name: str,
    make: Callable[[], RequestHandler],
    sockets: Path,
    folder: Path,
    endpoints: Mapping[str, EndpointSpec],
    connections: list[Connection],
) -> None:
    """Answer requests until the process that started this one ends or stops it."""
    isolate()
    (control,) = connections
    listeners: list[Listener] = []
    try:
        handler, lock = make(), threading.Lock()
        for number, (file, spec) in enumerate(endpoints.items()):
            key, address = os.urandom(KEY_BYTES), str(sockets / str(number))
            listeners.append(Listener(address, "AF_UNIX"))
            endpoint = _Endpoint(name, handler, lock, spec, key)
            threading.Thread(target=_accept_clients, args=(listeners[-1], endpoint), daemon=True).start()
            known = {"address": address, "key": key.hex(), "longest": spec.max_bytes}
            write_private(folder / file, json.dumps(known).encode())
    except Exception as error:
        control.send_bytes(f"{type(error).__name__}: {error}".encode())
        return
    control.send_bytes(READY)
    with contextlib.suppress(EOFError, OSError):
        control.recv_bytes()
        return
    # The process that would have removed the files has ended.
    for listener in listeners:
        listener.close()
    _remove(sockets, folder, endpoints)


def _accept_clients(listener: Listener, endpoint: _Endpoint) -> None:
    while True:
        endpoint.unauthenticated.acquire()
        try:
            client = listener.accept()
        except OSError:
            endpoint.unauthenticated.release()
            time.sleep(RETRY_SECONDS)
            continue
        try:
            # A thread each: a silent client does not block others.
            threading.Thread(target=endpoint.serve, args=(client,), daemon=True).start()
        except RuntimeError:
            # The system cannot start a thread now.
            client.close()
            endpoint.unauthenticated.release()
            time.sleep(RETRY_SECONDS)


class _Endpoint:
    """The connections of one endpoint."""

    def __init__(
        self, name: str, handler: RequestHandler, lock: threading.Lock, spec: EndpointSpec, key: bytes
    ) -> None:
        self._name, self._handler, self._lock = name, handler, lock
        self._spec, self._key = spec, key
        self.unauthenticated = threading.BoundedSemaphore(MAX_UNAUTHENTICATED)
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def serve(self, client: Connection) -> None:
        """Authenticate a client, and answer its requests until it disconnects or exceeds a limit."""
        with contextlib.suppress(AuthenticationError, EOFError, OSError), client:
            self._authenticate(client)
            if not self._connections.acquire(blocking=False):
                return
            try:
                self._answer_requests(client)
            finally:
                self._connections.release()

    def _authenticate(self, client: Connection) -> None:
        try:
            with _time_limit(AUTHENTICATION_SECONDS, client):
                deliver_challenge(client, self._key)
                answer_challenge(client, self._key)
        except AssertionError:
            # The standard library raises it where a client sends no challenge.
            raise AuthenticationError("the client sends no challenge") from None
        finally:
            self.unauthenticated.release()

    def _answer_requests(self, client: Connection) -> None:
        while True:
            _wait_for_byte(client)
            with _time_limit(MESSAGE_SECONDS, client):
                request = client.recv_bytes(self._spec.max_bytes)
            # The handler answers one request at a time.
            with self._lock:
                reply = dispatch(self._name, self._handler, self._spec.codes, request[:1], request[1:])
            with _time_limit(MESSAGE_SECONDS, client):
                client.send_bytes(reply)


def _wait_for_byte(client: Connection) -> None:
    """Wait for the first byte of a message without a limit: there may be hours between two rounds."""
    poll = select.poll()
    poll.register(client.fileno(), select.POLLIN)
    poll.poll()


@contextmanager
def _time_limit(seconds: float, client: Connection) -> Iterator[None]:
    """Shut the connection down if the block takes longer, so that its reads and writes fail."""
    with socket.socket(fileno=os.dup(client.fileno())) as duplicate:
        timer = threading.Timer(seconds, _shut_down, [duplicate])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            # An expired timer may still use the socket.
            timer.join()


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
