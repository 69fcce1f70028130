"""Doors of a party that other programs reach: who is let in, what may be asked there, and what is left at the end."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np
import pytest

from ppml.aggregation.factory import build_server_side
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.key_holder import ANNOUNCE, DECRYPT, KEY_ID, SECRET_KEY, KeyHolderService
from ppml.aggregation.key_service import (
    HOLDER,
    client_side,
    server_material,
    start_key_service,
)
from ppml.aggregation.lattice import ciphertext_id
from ppml.config.technique import Bfv, Ckks
from ppml.errors import InvalidUpdate
from ppml.ipc import socket_server as doors_module
from ppml.ipc.process import STOP
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT, EndpointSpec, connect, serve_sockets

from ..federation.scanner import secret_holders

UPDATE = np.array([3, -5, 7])
LONGEST = 1000
"""Bytes of a question at the front door."""

LONG_ANSWER = 4 * 2**20


class Counter:
    """Counts how often it is asked; asked in two at once it would miscount."""

    def __init__(self) -> None:
        self.count = 0

    def answer(self, what: bytes, content: bytes) -> bytes:
        before = self.count
        if what == b"l":
            return bytes(LONG_ANSWER)
        if content == b"bad":
            raise InvalidUpdate("that is bad")
        time.sleep(0.001)
        self.count = before + 1
        return str(self.count).encode()


@pytest.fixture
def doors(tmp_path):
    with serve_sockets(
        "counter",
        Counter,
        tmp_path,
        {"front": EndpointSpec(frozenset({b"c"}), LONGEST), "back": EndpointSpec(frozenset({b"d"}))},
    ):
        yield tmp_path


def test_each_door_lets_its_own_questions_through(doors):
    front, back = connect("counter", doors / "front"), connect("counter", doors / "back")
    assert [front.ask(b"c"), back.ask(b"d"), front.ask(b"c")] == [b"1", b"2", b"3"]
    for line, other in ((front, b"d"), (back, b"c"), (front, b""), (front, STOP)):
        with pytest.raises(InvalidUpdate, match="the counter gives no answer to that"):
            line.ask(other)
    with pytest.raises(InvalidUpdate, match="that is bad"):
        front.ask(b"c", b"bad")
    assert front.ask(b"c") == b"4"


def test_many_who_ask_at_once_are_answered_one_after_the_other(doors):
    told: list[bytes] = []

    def ask() -> None:
        line = connect("counter", doors / "front")
        told.extend(line.ask(b"c") for _ in range(25))

    guests = [threading.Thread(target=ask) for _ in range(8)]
    for guest in guests:
        guest.start()
    for guest in guests:
        guest.join()
    assert sorted(map(int, told)) == list(range(1, 201))


def forged(door: Path, **changes: str | int) -> Path:
    other = door.with_name("forged")
    other.write_text(json.dumps({**json.loads(door.read_text()), **changes}))
    return other


def test_who_does_not_know_the_key_is_not_let_in_and_nothing_that_it_says_is_read(doors):
    with pytest.raises(ChildProcessError, match="the counter cannot be reached by"):
        connect("counter", forged(doors / "front", key="00" * 32))
    known = json.loads((doors / "front").read_text())
    stranger = Client(known["address"], "AF_UNIX")
    stranger.send_bytes(b"c")
    assert [stranger.recv_bytes()[:9] for _ in range(2)] == [b"#CHALLENG", b"#FAILURE#"]
    with pytest.raises((EOFError, OSError)):
        stranger.recv_bytes()
    # The key of one door does not open the other.
    with pytest.raises(ChildProcessError):
        connect("counter", forged(doors / "back", key=known["key"]))
    assert connect("counter", doors / "front").ask(b"c") == b"1", "nobody has asked before"


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"address": "/nowhere", "key": "00"}', '{"key": 5}'])
def test_a_file_that_is_no_door_is_named(content, tmp_path):
    (tmp_path / "door").write_text(content)
    with pytest.raises(ChildProcessError, match=r"the counter cannot be reached by .*door"):
        connect("counter", tmp_path / "door")


def test_files_and_socket_are_for_their_owner_alone_and_gone_in_the_end(tmp_path):
    with serve_sockets("counter", Counter, tmp_path, {"front": EndpointSpec(frozenset({b"c"}))}):
        door = tmp_path / "front"
        address = Path(json.loads(door.read_text())["address"])
        assert door.stat().st_mode & 0o077 == 0 and address.parent.stat().st_mode & 0o077 == 0
        line = connect("counter", door)
        assert line.ask(b"c") == b"1"
    assert not door.exists() and not address.parent.exists()
    assert [one for one in multiprocessing.active_children() if one.name == "counter"] == []
    with pytest.raises(ChildProcessError, match="the counter is gone"):
        line.ask(b"c")


def test_who_says_nothing_keeps_nobody_waiting(doors):
    silent = [Client(json.loads((doors / "front").read_text())["address"], "AF_UNIX") for _ in range(3)]
    assert connect("counter", doors / "front").ask(b"c") == b"1"
    for one in silent:
        one.close()
    assert connect("counter", doors / "front").ask(b"c") == b"2"


def test_a_party_that_was_killed_is_named_to_who_is_inside_and_to_who_comes(doors):
    line = connect("counter", doors / "front")
    (party,) = [one for one in multiprocessing.active_children() if one.name == "counter"]
    os.kill(party.pid, signal.SIGKILL)
    party.join()
    with pytest.raises(ChildProcessError, match="the counter is gone"):
        line.ask(b"c")
    with pytest.raises(ChildProcessError, match="the counter cannot be reached by"):
        connect("counter", doors / "front")


def test_a_party_that_cannot_be_made_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        pytest.raises(ChildProcessError, match="the counter cannot be made: ZeroDivisionError"),
        serve_sockets("counter", lambda: 1 / 0, tmp_path / "files", {"front": EndpointSpec(frozenset())}),
    ):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.name != "files"]
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with (
        pytest.raises(ChildProcessError, match="the counter cannot be made: OSError: AF_UNIX path too long"),
        serve_sockets("counter", Counter, tmp_path / "files", {"front": EndpointSpec(frozenset())}),
    ):
        pass
    assert list(deep.iterdir()) == []


def test_what_fails_within_ends_the_party_as_well(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        serve_sockets("counter", Counter, tmp_path, {"front": EndpointSpec(frozenset())}),
    ):
        raise ZeroDivisionError
    assert [one for one in multiprocessing.active_children() if one.name == "counter"] == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see other processes")
def test_a_party_ends_with_the_program_that_opened_its_doors(tmp_path):
    program = (
        "import sys, time, multiprocessing; from pathlib import Path\n"
        "from ppml.ipc.socket_server import EndpointSpec, serve_sockets\n"
        "from tests.ipc.test_socket_server import Counter\n"
        "with serve_sockets('counter', Counter, Path(sys.argv[1]), {'front': EndpointSpec(frozenset())}):\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    started = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    party = int(started.stdout.readline())
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    for _ in range(100):
        try:
            state = Path(f"/proc/{party}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        threading.Event().wait(0.1)
    else:
        pytest.fail("it is still there")
    assert list(tmp_path.iterdir()) == [], "nor does it leave a key"
    assert started.stderr.read() == b""


# Guests that do not keep to the rules.


def raw_guest(door: Path, *, proven: bool) -> socket.socket:
    """Return a socket that is connected to a door, on which a test may send any bytes."""
    known = json.loads(door.read_text())
    guest = Client(known["address"], "AF_UNIX", authkey=bytes.fromhex(known["key"]) if proven else None)
    return socket.socket(fileno=os.dup(guest.fileno()))


def is_cut_off(guest: socket.socket, seconds: float = 5.0) -> bool:
    """Return whether the party closes a connection; what it has said before is read."""
    guest.settimeout(seconds)
    try:
        while guest.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


HUGE = {
    "a byte more": (LONGEST + 1).to_bytes(4, "big"),
    "2 GiB": (2**31 - 1).to_bytes(4, "big"),
    "8 EiB": b"\xff\xff\xff\xff" + (2**63).to_bytes(8, "big"),
}


@pytest.mark.parametrize("header", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize("proven", [True, False], ids=["proven", "unproven"])
def test_a_message_that_is_too_long_is_refused_by_its_first_bytes_and_others_are_served(header, proven, doors):
    guest, line = raw_guest(doors / "front", proven=proven), connect("counter", doors / "front")
    guest.sendall(header)
    assert is_cut_off(guest)
    assert line.ask(b"c", bytes(LONGEST - 1)) == b"1", "as many bytes as there may be"
    with pytest.raises(InvalidUpdate, match="a request of 1001 bytes to the counter, which accepts 1000"):
        line.ask(b"c", bytes(LONGEST))
    assert connect("counter", doors / "front").ask(b"c") == b"2"


def test_a_longer_message_is_read_where_no_door_limits_it(doors):
    """The fault that the test before guards against: the other door has the limit of all messages alone."""
    assert connect("counter", doors / "back").ask(b"d", bytes(10 * LONGEST)) == b"1"


def test_no_memory_is_taken_for_a_message_that_is_announced(doors):
    (party,) = [one for one in multiprocessing.active_children() if one.name == "counter"]
    statm = Path(f"/proc/{party.pid}/statm")
    if not statm.exists():
        pytest.skip("needs /proc to see the memory of other processes")
    guests = [raw_guest(doors / "front", proven=True) for _ in range(8)]
    before = int(statm.read_text().split()[1])
    for guest in guests:
        guest.sendall(HUGE["2 GiB"])
    assert all(map(is_cut_off, guests))
    # In pages of 4 KiB.
    assert int(statm.read_text().split()[1]) - before < 2**30 // 4096


GARBAGE = {
    "nothing": b"",
    "half a header": b"\0\0",
    "noise": bytes(range(256)) * 4,
    "zeros": bytes(64),
    "a negative length": b"\x80\0\0\0",
    "less than announced": b"\0\0\1\0abc",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("proven", [True, False], ids=["proven", "unproven"])
def test_a_guest_that_sends_garbage_and_goes_harms_no_other(content, proven, doors):
    line = connect("counter", doors / "front")
    for _ in range(3):
        with raw_guest(doors / "front", proven=proven) as guest, contextlib.suppress(OSError):
            guest.sendall(content)
    assert line.ask(b"c") == b"1" and connect("counter", doors / "front").ask(b"c") == b"2"


@pytest.fixture
def hasty(tmp_path, monkeypatch):
    """Start a party that waits for a short time, and has room for two guests at its door and three behind it."""
    monkeypatch.setattr(doors_module, "AUTHENTICATION_SECONDS", 0.3)
    monkeypatch.setattr(doors_module, "MESSAGE_SECONDS", 0.3)
    monkeypatch.setattr(doors_module, "MAX_UNAUTHENTICATED", 2)
    monkeypatch.setattr(doors_module, "MAX_CONNECTIONS", 3)
    with serve_sockets("counter", Counter, tmp_path, {"front": EndpointSpec(frozenset({b"c", b"l"}))}):
        yield tmp_path / "front"


def test_a_guest_that_does_not_prove_to_know_the_key_is_cut_off_in_time(hasty):
    silent = [raw_guest(hasty, proven=False) for _ in range(6)]
    # More than there is room for at once: they are cut off one after the other.
    assert connect("counter", hasty).ask(b"c") == b"1"
    assert all(map(is_cut_off, silent))


def test_a_guest_that_drips_its_message_is_cut_off_in_time_and_others_are_served_meanwhile(hasty):
    slow, line = raw_guest(hasty, proven=True), connect("counter", hasty)
    slow.sendall((100).to_bytes(4, "big"))
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 10:
            slow.sendall(b"c")
            assert int(line.ask(b"c")) > 0
            time.sleep(0.05)
    assert time.monotonic() - began < 5 and is_cut_off(slow)


def test_a_guest_that_does_not_take_its_answer_is_cut_off_in_time(hasty):
    deaf, line = raw_guest(hasty, proven=True), connect("counter", hasty)
    deaf.sendall(b"\0\0\0\1l" * 8)
    time.sleep(1)
    assert line.ask(b"c")
    # What the system has taken in for it is less than it was to be told.
    deaf.settimeout(5)
    read = 0
    with contextlib.suppress(OSError):
        while part := deaf.recv(2**20):
            read += len(part)
    assert read < 8 * LONG_ANSWER


def test_a_guest_may_be_silent_between_two_questions(hasty):
    line = connect("counter", hasty)
    assert line.ask(b"c") == b"1"
    time.sleep(1)
    assert line.ask(b"c") == b"2"


def test_no_more_guests_are_let_in_than_there_is_room_for(hasty):
    lines = [connect("counter", hasty) for _ in range(3)]
    with pytest.raises(ChildProcessError, match="the counter is gone"):
        connect("counter", hasty).ask(b"c")
    for line in lines:
        line.ask(b"c")
    lines.pop().close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            assert int(connect("counter", hasty).ask(b"c")) >= 4
            break
    else:
        pytest.fail("the place of a guest that has left is not free")


def test_the_server_s_door_of_a_key_holder_takes_names_and_no_sums(tmp_path):
    with start_key_service(Bfv(), 3, tmp_path):
        line = connect(HOLDER, tmp_path / SERVER_ENDPOINT)
        line.ask(ANNOUNCE, bytes(32))
        with pytest.raises(InvalidUpdate, match="a request of 2001 bytes to the holder"):
            line.ask(ANNOUNCE, bytes(2000))
        liar = connect(HOLDER, forged(tmp_path / SERVER_ENDPOINT, longest=10_000))
        with pytest.raises(ChildProcessError, match="is gone"):
            liar.ask(ANNOUNCE, bytes(2000))
        assert connect(HOLDER, tmp_path / SERVER_ENDPOINT).ask(KEY_ID)


# The holder of a key behind two doors.


@pytest.mark.parametrize("spec", [Ckks(), Bfv(), Bfv(rounds_per_key=1)], ids=["ckks", "bfv", "a key a round"])
def test_sites_seal_add_and_open_by_their_doors(spec, tmp_path):
    with start_key_service(spec, 3, tmp_path):
        sites = [client_side(spec, 3, tmp_path) for _ in range(3)]
        server = build_server_side(spec, 3, server_material(tmp_path))
        assert not secret_holders(sites, server)
        for number in (1, 2):
            uploads = [site.protect(UPDATE, client, number) for client, site in enumerate(sites)]
            for client, upload in enumerate(uploads):
                server.check(upload, client, number)
            with pytest.raises(InvalidUpdate, match="no sum that the server has announced"):
                sites[0].reveal(uploads[1])
            total = server.add(uploads)
            assert all(site.reveal(total).tolist() == (3 * UPDATE).tolist() for site in sites)


def test_the_server_s_door_opens_no_sum_and_no_door_gives_the_key(tmp_path):
    with start_key_service(Bfv(), 3, tmp_path):
        site = client_side(Bfv(), 3, tmp_path)
        server = build_server_side(Bfv(), 3, server_material(tmp_path))
        total = server.add([site.protect(UPDATE, client, 1) for client in range(3)])
        by_server, by_client = connect(HOLDER, tmp_path / SERVER_ENDPOINT), connect(HOLDER, tmp_path / CLIENT_ENDPOINT)
        for line, question in (
            (by_server, DECRYPT),
            (by_server, SECRET_KEY),
            (by_client, SECRET_KEY),
            (by_client, ANNOUNCE),
        ):
            with pytest.raises(InvalidUpdate, match="gives no answer to that"):
                line.ask(question, ciphertext_id(total))
        assert by_server.ask(KEY_ID) == by_client.ask(KEY_ID)


def test_a_holder_that_would_give_the_key_by_a_door_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(KeyHolderService, "public", KeyHolderService.secret)
    with start_key_service(Bfv(), 3, tmp_path), pytest.raises(RuntimeError, match="holds a secret key"):
        build_server_side(Bfv(), 3, server_material(tmp_path))


def test_a_holder_that_is_gone_is_named(tmp_path):
    with start_key_service(Bfv(), 3, tmp_path):
        site = client_side(Bfv(), 3, tmp_path)
    with pytest.raises(ChildProcessError, match="the holder of the secret key is gone"):
        site.reveal(ProtectedUpdate("bfv", 3, b""))
    with pytest.raises(ChildProcessError, match="the holder of the secret key cannot be reached"):
        client_side(Bfv(), 3, tmp_path)
