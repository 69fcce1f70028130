"""A party that processes of other programs reach: by sockets, each of which lets in who proves to know its key.

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
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import AuthenticationError, get_context
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from ppml.aggregation.party import STOP_SECONDS, Line, Party, _answered

KEY_BYTES = 32


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
    """
    # The path of a socket must be short, and nobody else may list this folder.
    place = Path(tempfile.mkdtemp(prefix="ppml-"))
    listeners = {}
    for door, allowed in doors.items():
        key = os.urandom(KEY_BYTES)
        listeners[Listener(str(place / door), "AF_UNIX", authkey=key)] = allowed
        _write_private(folder / door, {"address": str(place / door), "key": key.hex()})
    fork = get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=_serve, args=(name, make, listeners, ours, theirs), name=name, daemon=True)
    process.start()
    theirs.close()
    try:
        yield
    finally:
        ours.close()
        process.join(timeout=STOP_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        for listener in listeners:
            with contextlib.suppress(OSError):
                listener.close()
        shutil.rmtree(place, ignore_errors=True)
        for door in doors:
            (folder / door).unlink(missing_ok=True)


def _write_private(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(content), encoding="utf-8")


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
    except (AuthenticationError, EOFError, OSError, ValueError, KeyError) as error:
        raise ChildProcessError(f"the {name} cannot be reached by {door}: {error}") from None


def _serve(
    name: str,
    make: Callable[[], Party],
    listeners: Mapping[Listener, frozenset[bytes]],
    other: Connection,
    line: Connection,
) -> None:
    """Let in and answer until the other end is closed, as it is where the process that has it was killed."""
    other.close()
    party, turn = make(), threading.Lock()

    def ask(allowed: frozenset[bytes], question: bytes) -> bytes:
        # A party answers one question at a time.
        with turn:
            return _answered(name, party, allowed, question[:1], question[1:])

    for listener, allowed in listeners.items():
        threading.Thread(target=_let_in, args=(listener, allowed, ask), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        line.recv_bytes()


Ask = Callable[[frozenset[bytes], bytes], bytes]


def _let_in(listener: Listener, allowed: frozenset[bytes], ask: Ask) -> None:
    while True:
        try:
            guest = listener.accept()
        except (AuthenticationError, EOFError, OSError):
            # Who knows no key, or goes away while it is asked for it, is not let in, and others are.
            continue
        threading.Thread(target=_answer, args=(guest, allowed, ask), daemon=True).start()


def _answer(guest: Connection, allowed: frozenset[bytes], ask: Ask) -> None:
    with contextlib.suppress(EOFError, OSError), guest:
        while True:
            guest.send_bytes(ask(allowed, guest.recv_bytes()))
