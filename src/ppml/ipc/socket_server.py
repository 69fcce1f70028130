"""A party that other programs reach: by sockets, each of which lets in who proves to know its key.

Whoever is let in asks as on a :class:`~ppml.ipc.process.RpcConnection`. The proof is that of Python's own
``multiprocessing.connection``: a challenge, dispatch under the key, in both directions. It is checked before anything
that is said is read; what follows is not encrypted, for which a socket within one machine has no need. Between machines
it would go through a tunnel that is.

A guest may send anything, or stop amid a message: each door has a longest message, which a longer one is refused for by
its first bytes, before there is memory for it; the proof, and the rest of a message that has begun, have a time limit;
and so many guests are there at once at most. The party goes on serving the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import AuthenticationError, get_context
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import NamedTuple

from ppml.io.private_file import write_private
from ppml.ipc.hardening import harden_process
from ppml.ipc.process import MAX_MESSAGE_BYTES, STOP, STOP_SECONDS, RpcConnection, RequestHandler, dispatch

CLIENT_ENDPOINT, SERVER_ENDPOINT = "holder-for-clients.json", "holder-for-server.json"
"""Files of the doors to the key holder: the first is for the sites of clients alone, the second for the server."""

KEY_BYTES = 32
PAUSE_SECONDS = 0.1
"""How long a door stays shut where the system has no room for a guest."""

AUTHENTICATION_SECONDS = 20.0
"""How long a guest may take to prove that it knows the key."""

MESSAGE_SECONDS = 120.0
"""How long a message may take from its first byte to its last, in either direction."""

MAX_UNAUTHENTICATED, MAX_CONNECTIONS = 64, 1024
"""Guests at a door that have not proven to know its key, others wait; and guests that have, others are turned away."""

READY = b"ready"


class EndpointSpec(NamedTuple):
    """What may be asked behind a door.

    Parameters
    ----------
    questions : frozenset of bytes
        The first byte of each question that may be asked.
    longest : int
        Most bytes of a question.
    """

    questions: frozenset[bytes]
    longest: int = MAX_MESSAGE_BYTES


@contextmanager
def serve_sockets(name: str, make: Callable[[], RequestHandler], folder: Path, doors: Mapping[str, EndpointSpec]) -> Iterator[None]:
    """Start a party in a process of its own, which ends with the block.

    Parameters
    ----------
    name : str
        What it is called.
    make : callable
        Makes it, in its process, where it draws its keys.
    folder : Path
        Gets a file for each door: its address and its key. Who can read that file is let in.
    doors : mapping of str to Door
        What may be asked there, by the name of the door.

    Raises
    ------
    ChildProcessError
        The party cannot be made, or its sockets cannot; the message says why.
    """
    fork = get_context("fork")
    ours, theirs = fork.Pipe()
    with ExitStack() as stack:
        # Nobody else may list this folder, and the path of a socket must be short.
        place = Path(tempfile.mkdtemp(prefix="ppml-"))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        process = fork.Process(
            target=_serve, args=(name, make, place, folder, doors, ours, theirs), name=name, daemon=True
        )
        process.start()
        theirs.close()

        def end() -> None:
            with contextlib.suppress(OSError), ours:
                ours.send_bytes(STOP)
            process.join(timeout=STOP_SECONDS)
            if process.exitcode is None:
                process.kill()
                process.join()
            for door in doors:
                (folder / door).unlink(missing_ok=True)

        stack.callback(end)
        try:
            said = ours.recv_bytes()
        except (EOFError, OSError):
            said = b"it has ended"
        if said != READY:
            raise ChildProcessError(f"the {name} cannot be made: {said.decode()}")
        yield


def connect(name: str, door: Path) -> RpcConnection:
    """Return a line to the party behind a door.

    Raises
    ------
    ChildProcessError
        It is gone, or does not let in whoever has this file.
    """
    try:
        known = json.loads(door.read_text(encoding="utf-8"))
        key, longest = bytes.fromhex(known["key"]), int(known["longest"])
        return RpcConnection(name, Client(known["address"], "AF_UNIX", authkey=key), longest)
    except (AuthenticationError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise ChildProcessError(f"the {name} cannot be reached by {door}: {error}") from None


def _serve(
    name: str,
    make: Callable[[], RequestHandler],
    place: Path,
    folder: Path,
    doors: Mapping[str, EndpointSpec],
    other: Connection,
    line: Connection,
) -> None:
    """Let in and answer until it is told to end, or the process that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before there is a key.
    harden_process()
    other.close()
    listeners: list[Listener] = []
    try:
        party, turn = make(), threading.Lock()
        for number, (name_of_door, door) in enumerate(doors.items()):
            key, address = os.urandom(KEY_BYTES), str(place / str(number))
            listeners.append(Listener(address, "AF_UNIX"))
            room = _Endpoint(name, party, turn, door, key)
            threading.Thread(target=_let_in, args=(listeners[-1], room), daemon=True).start()
            known = {"address": address, "key": key.hex(), "longest": door.longest}
            write_private(folder / name_of_door, json.dumps(known).encode())
    except Exception as error:
        line.send_bytes(f"{type(error).__name__}: {error}".encode())
        return
    line.send_bytes(READY)
    with contextlib.suppress(EOFError, OSError):
        line.recv_bytes()
        return
    # Who would have removed them is gone.
    for listener in listeners:
        listener.close()
    shutil.rmtree(place, ignore_errors=True)
    for name_of_door in doors:
        (folder / name_of_door).unlink(missing_ok=True)


def _let_in(listener: Listener, room: _Endpoint) -> None:
    while True:
        room.unproven.acquire()
        try:
            guest = listener.accept()
        except OSError:
            room.unproven.release()
            time.sleep(PAUSE_SECONDS)
            continue
        try:
            # A guest that says nothing keeps no other one waiting.
            threading.Thread(target=room.receive, args=(guest,), daemon=True).start()
        except RuntimeError:
            # No thread can be started now.
            guest.close()
            room.unproven.release()
            time.sleep(PAUSE_SECONDS)


class _Endpoint:
    """What is behind a door."""

    def __init__(self, name: str, party: RequestHandler, turn: threading.Lock, door: EndpointSpec, key: bytes) -> None:
        self._name, self._party, self._turn = name, party, turn
        self._door, self._key = door, key
        self.unproven = threading.BoundedSemaphore(MAX_UNAUTHENTICATED)
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def receive(self, guest: Connection) -> None:
        """Answer a guest that proves to know the key, until it goes, or breaks a limit."""
        with contextlib.suppress(AuthenticationError, EOFError, OSError), guest:
            self._have_proven(guest)
            if not self._places.acquire(blocking=False):
                return
            try:
                self._serve(guest)
            finally:
                self._places.release()

    def _have_proven(self, guest: Connection) -> None:
        try:
            with _within(AUTHENTICATION_SECONDS, guest):
                deliver_challenge(guest, self._key)
                answer_challenge(guest, self._key)
        except AssertionError:
            # What the standard library raises where a guest sends no challenge.
            raise AuthenticationError("it sends no challenge") from None
        finally:
            self.unproven.release()

    def _serve(self, guest: Connection) -> None:
        while True:
            _wait_for(guest)
            with _within(MESSAGE_SECONDS, guest):
                question = guest.recv_bytes(self._door.longest)
            answer = self._answer(question)
            with _within(MESSAGE_SECONDS, guest):
                guest.send_bytes(answer)

    def _answer(self, question: bytes) -> bytes:
        # A party answers one question at a time.
        with self._turn:
            return dispatch(self._name, self._party, self._door.questions, question[:1], question[1:])


def _wait_for(guest: Connection) -> None:
    """Wait for the first byte of a message, as long as it takes: between two rounds hours may pass."""
    waiting = select.poll()
    waiting.register(guest.fileno(), select.POLLIN)
    waiting.poll()


@contextmanager
def _within(seconds: float, guest: Connection) -> Iterator[None]:
    """Break the connection to a guest if the block takes longer; what waits for the guest then fails."""
    with socket.socket(fileno=os.dup(guest.fileno())) as same:
        limit = threading.Timer(seconds, _break, [same])
        limit.daemon = True
        limit.start()
        try:
            yield
        finally:
            limit.cancel()
            # A limit that has passed just now may be at work on the socket.
            limit.join()


def _break(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
