"""Hardened processes: no core file, and no access for other programs of the same user."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from ppml.aggregation.factory import build_parties, build_server_side
from ppml.config.technique import Bfv, Masking, SecretSharing
from ppml.ipc import process as process_module
from ppml.ipc.hardening import harden_process, is_hardened
from ppml.ipc.process import isolation_hooks, start_process
from ppml.ipc.socket_server import EndpointSpec, connect, serve_sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these settings")

NOBODY = 65534
"""Id of a user without rights."""

SET_DUMPABLE = 4


class Witness:
    """Answers whether its process was hardened when the object, and so a key, was made."""

    def __init__(self) -> None:
        self._at_start = is_hardened()

    def answer(self, code: bytes, content: bytes) -> bytes:
        return bytes([self._at_start, is_hardened()])


def ask_witness() -> bytes:
    (line,), end = start_process("witness", Witness, [frozenset({b"?"})])
    try:
        return line.ask(b"?")
    finally:
        end()


def test_process_is_hardened_before_it_has_a_key():
    assert ask_witness() == b"\1\1"
    assert not is_hardened()


def test_missing_hardening_is_caught(monkeypatch):
    monkeypatch.setattr(process_module, "harden_process", lambda: None)
    assert ask_witness() == b"\0\0"


def test_socket_server_is_hardened_before_it_has_a_key(tmp_path):
    with serve_sockets("witness", Witness, tmp_path, {"front": EndpointSpec(frozenset({b"?"}))}):
        assert connect("witness", tmp_path / "front").ask(b"?") == b"\1\1"


@pytest.mark.parametrize(
    ("spec", "ask"),
    [
        (Bfv(), lambda made: made.material()),
        (SecretSharing(), lambda made: made.clients.protect(np.arange(3))),
        (Masking(), lambda made: made.clients.respond("keys", 0, 1, b"")),
    ],
    ids=["bfv", "shares", "masking"],
)
def test_all_processes_with_keys_write_no_core_file(spec, ask):
    made = build_parties(spec, 3)
    # After a reply each process exists.
    ask(made)
    names = {"holder of the secret key", "server 2 of 3", "server 3 of 3", "register of the clients' keys"}
    found = [one for one in active_children() if one.name in names]
    assert found
    for one in found:
        limits = Path(f"/proc/{one.pid}/limits").read_text().splitlines()
        (core,) = [line for line in limits if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]
    made.close()


def in_a_child(work: Callable[[], bool]) -> bool:
    """Return the result of ``work`` in a child process."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os._exit(0 if work() else 1)
        os._exit(2)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1), "it failed"
    return code == 0


def test_clients_process_is_hardened():
    def isolate() -> bool:
        isolation_hooks([], []).at_clients()
        return is_hardened()

    assert in_a_child(isolate)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Become a user without rights, in a process that ends after that."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        # The system hardens a process that gives up its rights.
        ctypes.CDLL(None).prctl(SET_DUMPABLE, 1, 0, 0, 0)
    yield


def readable(process: int, name: str) -> bool:
    try:
        with Path(f"/proc/{process}/{name}").open("rb") as file:
            file.read(0 if name == "mem" else 1)
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize("name", ["mem", "environ"])
def test_same_user_reads_neither_memory_nor_environment(name):
    def can_be_read() -> bool:
        with as_nobody():
            (line,), end = start_process("witness", Witness, [frozenset({b"?"})])
            line.ask(b"?")
            (child,) = [one for one in active_children() if one.name == "witness"]
            try:
                return readable(child.pid, name)
            finally:
                end()

    # Even the parent of the process cannot read it.
    assert not in_a_child(can_be_read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_module, "harden_process", lambda: None)
        assert in_a_child(can_be_read), "without hardening the same program reads it"


def test_hardened_processes_work_without_rights():
    """A hardened process cannot open some of its own files in /proc, where SEAL reads its streams."""

    def works() -> bool:
        with as_nobody():
            holder, helpers = build_parties(Bfv(), 3), build_parties(SecretSharing(), 3)
            server = build_server_side(SecretSharing(), 3, helpers.material)
            uploads = [helpers.clients.protect(np.arange(4), client, 1) for client in range(3)]
            found = helpers.clients.reveal(server.add(uploads)).tolist()
            right = found == [0, 3, 6, 9] and len(holder.material()) > 10_000
            holder.close()
            helpers.close()
            return right

    # Import all modules first: in the administrator's tests that user cannot read them.
    ask_witness()
    for spec in (Bfv(), SecretSharing()):
        build_parties(spec, 3).close()
    assert in_a_child(works)


def test_refusal_of_the_system_is_named(monkeypatch):
    class Refuses:
        @staticmethod
        def prctl(*given: int) -> int:
            return -1

    monkeypatch.setattr("ppml.ipc.hardening._libc", Refuses)
    monkeypatch.setattr("resource.setrlimit", lambda *given: None)
    with pytest.raises(OSError, match="cannot be protected"):
        harden_process()
