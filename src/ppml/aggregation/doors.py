"""A party that other programs reach: by sockets, each of which lets in who proves to know its key.

Whoever is let in asks as on a :class:`~ppml.aggregation.party.Line`. The proof is that of Python's own
``multiprocessing.connection``: a challenge, answered under the key, in both directions. It is checked before anything
that is said is read; what follows is not encrypted, for which a socket within one machine has no need. Between machines
it would go through a tunnel that is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import AuthenticationError, get_context
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path

from ppml.aggregation.party import STOP, STOP_SECONDS, Line, Party, answered

KEY_BYTES = 32
PAUSE_SECONDS = 0.1
"""How long a door stays shut where the system has no room for a guest."""

READY = b"ready"


@contextmanager
def open_doors(
    name: str, make: Callable[[], Party], folder: Path, doors: Mapping[str, frozenset[bytes]]
) -> Iterator[None]:
    """Start a party in a process of its own, which ends with the block.

    Parameters
    ----------
    name : str
        What it is called.
    make : callable
        Makes it, in its process, where it draws its keys.
    folder : Path
        Gets a file for each door: its address and its key. Who can read that file is let in.
    doors : mapping of str to frozenset of bytes
        Which questions may be asked there, by the name of the door.

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


def enter(name: str, door: Path) -> Line:
    """Return a line to the party behind a door.

    Raises
    ------
    ChildProcessError
        It is gone, or does not let in whoever has this file.
    """
    try:
        known = json.loads(door.read_text(encoding="utf-8"))
        return Line(name, Client(known["address"], "AF_UNIX", authkey=bytes.fromhex(known["key"])))
    except (AuthenticationError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise ChildProcessError(f"the {name} cannot be reached by {door}: {error}") from None


def _serve(
    name: str,
    make: Callable[[], Party],
    place: Path,
    folder: Path,
    doors: Mapping[str, frozenset[bytes]],
    other: Connection,
    line: Connection,
) -> None:
    """Let in and answer until it is told to end, or the process that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    other.close()
    listeners: list[Listener] = []
    try:
        party, turn = make(), threading.Lock()
        for number, (door, allowed) in enumerate(doors.items()):
            key, address = os.urandom(KEY_BYTES), str(place / str(number))
            listeners.append(Listener(address, "AF_UNIX"))
            room = _Room(name, party, turn, allowed, key)
            threading.Thread(target=_let_in, args=(listeners[-1], room), daemon=True).start()
            _write_private(folder / door, {"address": address, "key": key.hex()})
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
    for door in doors:
        (folder / door).unlink(missing_ok=True)


def _write_private(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(content), encoding="utf-8")


def _let_in(listener: Listener, room: _Room) -> None:
    while True:
        try:
            guest = listener.accept()
        except OSError:
            time.sleep(PAUSE_SECONDS)
            continue
        try:
            # Who says nothing keeps nobody else waiting.
            threading.Thread(target=room.receive, args=(guest,), daemon=True).start()
        except RuntimeError:
            # No thread can be started now.
            guest.close()
            time.sleep(PAUSE_SECONDS)


class _Room:
    """What is behind a door."""

    def __init__(self, name: str, party: Party, turn: threading.Lock, allowed: frozenset[bytes], key: bytes) -> None:
        self._name, self._party, self._turn = name, party, turn
        self._allowed, self._key = allowed, key

    def receive(self, guest: Connection) -> None:
        """Answer a guest who proves to know the key, until it goes."""
        with contextlib.suppress(AuthenticationError, EOFError, OSError), guest:
            deliver_challenge(guest, self._key)
            answer_challenge(guest, self._key)
            while True:
                guest.send_bytes(self._answer(guest.recv_bytes()))

    def _answer(self, question: bytes) -> bytes:
        # A party answers one question at a time.
        with self._turn:
            return answered(self._name, self._party, self._allowed, question[:1], question[1:])
