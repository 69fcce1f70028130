"""Processes that hold keys: no core file, and nothing to read for other programs of the same user."""

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
from ppml.ipc import process as party_module
from ppml.ipc.hardening import harden_process, is_hardened
from ppml.ipc.process import isolation_hooks, start_process
from ppml.ipc.socket_server import EndpointSpec, connect, serve_sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has what is looked at")

NOBODY = 65534
"""A user without rights."""

SET_DUMPABLE = 4


class Witness:
    """Says whether its process was secluded when it was made, which is when a party draws its keys."""

    def __init__(self) -> None:
        self._then = is_hardened()

    def answer(self, what: bytes, content: bytes) -> bytes:
        return bytes([self._then, is_hardened()])


def told_by_a_party() -> bytes:
    (line,), end = start_process("witness", Witness, [frozenset({b"?"})])
    try:
        return line.ask(b"?")
    finally:
        end()


def test_a_party_is_secluded_before_it_draws_a_key_and_its_starter_is_not():
    assert told_by_a_party() == b"\1\1"
    assert not is_hardened()


def test_a_party_that_is_not_is_caught(monkeypatch):
    monkeypatch.setattr(party_module, "seclude", lambda: None)
    assert told_by_a_party() == b"\0\0"


def test_a_party_behind_doors_is_secluded_before_it_draws_a_key(tmp_path):
    with serve_sockets("witness", Witness, tmp_path, {"front": EndpointSpec(frozenset({b"?"}))}):
        assert connect("witness", tmp_path / "front").ask(b"?") == b"\1\1"


@pytest.mark.parametrize(
    ("spec", "answered"),
    [
        (Bfv(), lambda made: made.material()),
        (SecretSharing(), lambda made: made.clients.protect(np.arange(3))),
        (Masking(), lambda made: made.clients.respond("keys", 0, 1, b"")),
    ],
    ids=["bfv", "shares", "masking"],
)
def test_the_system_s_limits_of_all_parties_say_no_core_file(spec, answered):
    made = build_parties(spec, 3)
    # Each has answered, and so has been made.
    answered(made)
    names = {"holder of the secret key", "server 2 of 3", "server 3 of 3", "register of the clients' keys"}
    found = [one for one in active_children() if one.name in names]
    assert found
    for one in found:
        limits = Path(f"/proc/{one.pid}/limits").read_text().splitlines()
        (core,) = [line for line in limits if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]
    made.close()


def in_a_child(work: Callable[[], bool]) -> bool:
    """Return what ``work`` comes to in a process of its own."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os._exit(0 if work() else 1)
        os._exit(2)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1), "it failed"
    return code == 0


def test_clients_are_secluded_where_they_part_from_the_server():
    def parts() -> bool:
        isolation_hooks([], []).at_clients()
        return is_hardened()

    assert in_a_child(parts)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user without rights, in a process that ends after that."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        # The system secludes a process that gives its rights away.
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
def test_the_same_user_reads_neither_memory_nor_environment_of_a_party(name):
    def can_be_read() -> bool:
        with as_nobody():
            (line,), end = start_process("witness", Witness, [frozenset({b"?"})])
            line.ask(b"?")
            (party,) = [one for one in active_children() if one.name == "witness"]
            try:
                return readable(party.pid, name)
            finally:
                end()

    # The starter of a process may look into it, where the system lets any program do so.
    assert not in_a_child(can_be_read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(party_module, "seclude", lambda: None)
        assert in_a_child(can_be_read), "without it the same program reads it"


def test_parties_of_a_user_without_rights_do_their_work():
    """A secluded process may not open some files of its own in /proc, where SEAL's streams lie while they are read."""

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

    # What is imported late cannot be read by that user where the tests are the administrator's.
    told_by_a_party()
    for spec in (Bfv(), SecretSharing()):
        build_parties(spec, 3).close()
    assert in_a_child(works)


def test_a_refusal_of_the_system_is_named(monkeypatch):
    class Refuses:
        @staticmethod
        def prctl(*given: int) -> int:
            return -1

    monkeypatch.setattr("ppml.ipc.hardening._libc", Refuses)
    monkeypatch.setattr("resource.setrlimit", lambda *given: None)
    with pytest.raises(OSError, match="cannot be protected"):
        harden_process()
