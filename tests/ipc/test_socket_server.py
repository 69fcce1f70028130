"""Sockets of a process for other programs: authentication, allowed requests, limits and clean-up."""

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
from ppml.aggregation.key_holder import ANNOUNCE, DECRYPT, KEY_HOLDER, KEY_ID, SECRET_KEY, KeyHolderService
from ppml.aggregation.key_service import (
    client_side,
    server_material,
    start_key_service,
)
from ppml.aggregation.lattice import ciphertext_id
from ppml.config.technique import Bfv, Ckks
from ppml.errors import InvalidUpdate
from ppml.ipc import socket_server
from ppml.ipc.process import STOP
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT, EndpointSpec, connect, serve_sockets

from ..federation.scanner import secret_holders

UPDATE = np.array([3, -5, 7])
LONGEST = 1000
"""Most bytes of a request at the front endpoint."""

LONG_REPLY = 4 * 2**20


class Counter:
    """Counts its requests; two requests at once would spoil the count."""

    def __init__(self) -> None:
        self.count = 0

    def answer(self, code: bytes, content: bytes) -> bytes:
        before = self.count
        if code == b"l":
            return bytes(LONG_REPLY)
        if content == b"bad":
            raise InvalidUpdate("that is bad")
        time.sleep(0.001)
        self.count = before + 1
        return str(self.count).encode()


@pytest.fixture
def folder(tmp_path):
    with serve_sockets(
        "counter",
        Counter,
        tmp_path,
        {"front": EndpointSpec(frozenset({b"c"}), LONGEST), "back": EndpointSpec(frozenset({b"d"}))},
    ):
        yield tmp_path


def test_endpoint_answers_only_its_own_requests(folder):
    front, back = connect("counter", folder / "front"), connect("counter", folder / "back")
    assert [front.ask(b"c"), back.ask(b"d"), front.ask(b"c")] == [b"1", b"2", b"3"]
    for connection, other in ((front, b"d"), (back, b"c"), (front, b""), (front, STOP)):
        with pytest.raises(InvalidUpdate, match="gives no answer to that"):
            connection.ask(other)
    with pytest.raises(InvalidUpdate, match="that is bad"):
        front.ask(b"c", b"bad")
    assert front.ask(b"c") == b"4"


def test_concurrent_requests_are_answered_one_by_one(folder):
    counts: list[bytes] = []

    def ask() -> None:
        connection = connect("counter", folder / "front")
        counts.extend(connection.ask(b"c") for _ in range(25))

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert sorted(map(int, counts)) == list(range(1, 201))


def forge(endpoint: Path, **changes: str | int) -> Path:
    other = endpoint.with_name("forged")
    other.write_text(json.dumps({**json.loads(endpoint.read_text()), **changes}))
    return other


def test_client_without_the_key_is_rejected_unread(folder):
    with pytest.raises(ChildProcessError, match="the counter cannot be reached by"):
        connect("counter", forge(folder / "front", key="00" * 32))
    known = json.loads((folder / "front").read_text())
    stranger = Client(known["address"], "AF_UNIX")
    stranger.send_bytes(b"c")
    assert [stranger.recv_bytes()[:9] for _ in range(2)] == [b"#CHALLENG", b"#FAILURE#"]
    with pytest.raises((EOFError, OSError)):
        stranger.recv_bytes()
    # Each endpoint has its own key.
    with pytest.raises(ChildProcessError):
        connect("counter", forge(folder / "back", key=known["key"]))
    assert connect("counter", folder / "front").ask(b"c") == b"1", "this is the first request"


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"address": "/nowhere", "key": "00"}', '{"key": 5}'])
def test_invalid_endpoint_file_is_named(content, tmp_path):
    (tmp_path / "endpoint").write_text(content)
    with pytest.raises(ChildProcessError, match=r"the counter cannot be reached by .*endpoint"):
        connect("counter", tmp_path / "endpoint")


def test_files_and_sockets_are_private_and_removed(tmp_path):
    with serve_sockets("counter", Counter, tmp_path, {"front": EndpointSpec(frozenset({b"c"}))}):
        endpoint = tmp_path / "front"
        address = Path(json.loads(endpoint.read_text())["address"])
        assert endpoint.stat().st_mode & 0o077 == 0 and address.parent.stat().st_mode & 0o077 == 0
        connection = connect("counter", endpoint)
        assert connection.ask(b"c") == b"1"
    assert not endpoint.exists() and not address.parent.exists()
    assert [one for one in multiprocessing.active_children() if one.name == "counter"] == []
    with pytest.raises(ChildProcessError, match="the counter has ended"):
        connection.ask(b"c")


def test_silent_connection_does_not_block_others(folder):
    silent = [Client(json.loads((folder / "front").read_text())["address"], "AF_UNIX") for _ in range(3)]
    assert connect("counter", folder / "front").ask(b"c") == b"1"
    for one in silent:
        one.close()
    assert connect("counter", folder / "front").ask(b"c") == b"2"


def test_killed_process_is_named_to_old_and_new_clients(folder):
    connection = connect("counter", folder / "front")
    (process,) = [one for one in multiprocessing.active_children() if one.name == "counter"]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(ChildProcessError, match="the counter has ended"):
        connection.ask(b"c")
    with pytest.raises(ChildProcessError, match="the counter cannot be reached by"):
        connect("counter", folder / "front")


def test_failing_start_gives_the_reason_and_leaves_no_file(tmp_path, monkeypatch):
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


def test_exception_in_the_block_ends_the_process(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        serve_sockets("counter", Counter, tmp_path, {"front": EndpointSpec(frozenset())}),
    ):
        raise ZeroDivisionError
    assert [one for one in multiprocessing.active_children() if one.name == "counter"] == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see other processes")
def test_process_ends_with_the_program_that_started_it(tmp_path):
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
    process = int(started.stdout.readline())
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        threading.Event().wait(0.1)
    else:
        pytest.fail("it still runs")
    assert list(tmp_path.iterdir()) == [], "no key remains"
    assert started.stderr.read() == b""


# Clients that break the protocol.


def raw_client(endpoint: Path, *, authenticated: bool) -> socket.socket:
    """Return a socket connected to an endpoint, for any bytes."""
    known = json.loads(endpoint.read_text())
    client = Client(known["address"], "AF_UNIX", authkey=bytes.fromhex(known["key"]) if authenticated else None)
    return socket.socket(fileno=os.dup(client.fileno()))


def is_closed(client: socket.socket, seconds: float = 5.0) -> bool:
    """Return whether the process closes a connection; earlier replies are read."""
    client.settimeout(seconds)
    try:
        while client.recv(4096):
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
@pytest.mark.parametrize("authenticated", [True, False], ids=["authenticated", "unauthenticated"])
def test_too_long_message_is_refused_by_its_header(header, authenticated, folder):
    client, connection = raw_client(folder / "front", authenticated=authenticated), connect("counter", folder / "front")
    client.sendall(header)
    assert is_closed(client)
    assert connection.ask(b"c", bytes(LONGEST - 1)) == b"1", "the longest allowed request"
    with pytest.raises(InvalidUpdate, match="1001 bytes to the counter"):
        connection.ask(b"c", bytes(LONGEST))
    assert connect("counter", folder / "front").ask(b"c") == b"2"


def test_longer_message_passes_without_a_limit(folder):
    """The other endpoint has no limit of its own, as the first one without a limit would."""
    assert connect("counter", folder / "back").ask(b"d", bytes(10 * LONGEST)) == b"1"


def test_announced_message_takes_no_memory(folder):
    (process,) = [one for one in multiprocessing.active_children() if one.name == "counter"]
    statm = Path(f"/proc/{process.pid}/statm")
    if not statm.exists():
        pytest.skip("needs /proc to see the memory of other processes")
    clients = [raw_client(folder / "front", authenticated=True) for _ in range(8)]
    before = int(statm.read_text().split()[1])
    for client in clients:
        client.sendall(HUGE["2 GiB"])
    assert all(map(is_closed, clients))
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
@pytest.mark.parametrize("authenticated", [True, False], ids=["authenticated", "unauthenticated"])
def test_garbage_of_one_client_harms_no_other(content, authenticated, folder):
    connection = connect("counter", folder / "front")
    for _ in range(3):
        with raw_client(folder / "front", authenticated=authenticated) as client, contextlib.suppress(OSError):
            client.sendall(content)
    assert connection.ask(b"c") == b"1" and connect("counter", folder / "front").ask(b"c") == b"2"


@pytest.fixture
def strict(tmp_path, monkeypatch):
    """Start a process with short limits: two connections before authentication, and three after it."""
    monkeypatch.setattr(socket_server, "AUTHENTICATION_SECONDS", 0.3)
    monkeypatch.setattr(socket_server, "MESSAGE_SECONDS", 0.3)
    monkeypatch.setattr(socket_server, "MAX_UNAUTHENTICATED", 2)
    monkeypatch.setattr(socket_server, "MAX_CONNECTIONS", 3)
    with serve_sockets("counter", Counter, tmp_path, {"front": EndpointSpec(frozenset({b"c", b"l"}))}):
        yield tmp_path / "front"


def test_unauthenticated_connections_are_closed_in_time(strict):
    silent = [raw_client(strict, authenticated=False) for _ in range(6)]
    # These are more than the limit: they are closed one after the other.
    assert connect("counter", strict).ask(b"c") == b"1"
    assert all(map(is_closed, silent))


def test_slow_message_is_cut_off_while_others_are_served(strict):
    slow, connection = raw_client(strict, authenticated=True), connect("counter", strict)
    slow.sendall((100).to_bytes(4, "big"))
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 10:
            slow.sendall(b"c")
            assert int(connection.ask(b"c")) > 0
            time.sleep(0.05)
    assert time.monotonic() - began < 5 and is_closed(slow)


def test_client_that_reads_no_reply_is_cut_off(strict):
    idle, connection = raw_client(strict, authenticated=True), connect("counter", strict)
    idle.sendall(b"\0\0\0\1l" * 8)
    time.sleep(1)
    assert connection.ask(b"c")
    # The buffered bytes are fewer than those of all replies.
    idle.settimeout(5)
    read = 0
    with contextlib.suppress(OSError):
        while part := idle.recv(2**20):
            read += len(part)
    assert read < 8 * LONG_REPLY


def test_client_may_be_silent_between_requests(strict):
    connection = connect("counter", strict)
    assert connection.ask(b"c") == b"1"
    time.sleep(1)
    assert connection.ask(b"c") == b"2"


def test_number_of_connections_is_limited(strict):
    connections = [connect("counter", strict) for _ in range(3)]
    # The server counts a connection only after the client is authenticated: its reply says that it has counted.
    for connection in connections:
        connection.ask(b"c")
    with pytest.raises(ChildProcessError, match="the counter has ended"):
        connect("counter", strict).ask(b"c")
    for connection in connections:
        connection.ask(b"c")
    connections.pop().close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            assert int(connect("counter", strict).ask(b"c")) >= 7
            break
    else:
        pytest.fail("a closed connection still counts")


def test_server_endpoint_of_a_key_holder_accepts_no_sums(tmp_path):
    with start_key_service(Bfv(), 3, tmp_path):
        connection = connect(KEY_HOLDER, tmp_path / SERVER_ENDPOINT)
        connection.ask(ANNOUNCE, bytes(32))
        with pytest.raises(InvalidUpdate, match="2001 bytes to the holder"):
            connection.ask(ANNOUNCE, bytes(2000))
        liar = connect(KEY_HOLDER, forge(tmp_path / SERVER_ENDPOINT, longest=10_000))
        with pytest.raises(ChildProcessError, match="has ended"):
            liar.ask(ANNOUNCE, bytes(2000))
        assert connect(KEY_HOLDER, tmp_path / SERVER_ENDPOINT).ask(KEY_ID)


# A key holder with two endpoints.


@pytest.mark.parametrize("spec", [Ckks(), Bfv(), Bfv(rounds_per_key=1)], ids=["ckks", "bfv", "a key a round"])
def test_sites_encrypt_add_and_decrypt_through_their_endpoints(spec, tmp_path):
    with start_key_service(spec, 3, tmp_path):
        sites = [client_side(spec, 3, tmp_path) for _ in range(3)]
        server = build_server_side(spec, 3, server_material(tmp_path))
        assert not secret_holders(sites, server)
        for number in (1, 2):
            uploads = [site.protect(UPDATE, client, number) for client, site in enumerate(sites)]
            for client, upload in enumerate(uploads):
                server.check(upload, client, number)
            with pytest.raises(InvalidUpdate, match="server has not announced this sum"):
                sites[0].reveal(uploads[1])
            total = server.add(uploads)
            assert all(site.reveal(total).tolist() == (3 * UPDATE).tolist() for site in sites)


def test_server_endpoint_decrypts_no_sum_and_no_endpoint_gives_the_key(tmp_path):
    with start_key_service(Bfv(), 3, tmp_path):
        site = client_side(Bfv(), 3, tmp_path)
        server = build_server_side(Bfv(), 3, server_material(tmp_path))
        total = server.add([site.protect(UPDATE, client, 1) for client in range(3)])
        by_server, by_client = (
            connect(KEY_HOLDER, tmp_path / SERVER_ENDPOINT),
            connect(KEY_HOLDER, tmp_path / CLIENT_ENDPOINT),
        )
        for connection, question in (
            (by_server, DECRYPT),
            (by_server, SECRET_KEY),
            (by_client, SECRET_KEY),
            (by_client, ANNOUNCE),
        ):
            with pytest.raises(InvalidUpdate, match="gives no answer to that"):
                connection.ask(question, ciphertext_id(total))
        assert by_server.ask(KEY_ID) == by_client.ask(KEY_ID)


def test_key_holder_that_sends_its_key_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(KeyHolderService, "public", KeyHolderService.secret)
    with start_key_service(Bfv(), 3, tmp_path), pytest.raises(RuntimeError, match="contains a secret key"):
        build_server_side(Bfv(), 3, server_material(tmp_path))


def test_missing_key_holder_is_named(tmp_path):
    with start_key_service(Bfv(), 3, tmp_path):
        site = client_side(Bfv(), 3, tmp_path)
    with pytest.raises(ChildProcessError, match="the holder of the secret key has ended"):
        site.reveal(ProtectedUpdate("bfv", 3, b""))
    with pytest.raises(ChildProcessError, match="the holder of the secret key cannot be reached"):
        client_side(Bfv(), 3, tmp_path)
