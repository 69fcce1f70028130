"""Doors of a party that other programs reach: who is let in, what may be asked there, and what is left at the end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np
import pytest

from ppml.aggregation.build import build_server_side
from ppml.aggregation.doors import enter, open_doors
from ppml.aggregation.key_door import (
    FOR_CLIENTS,
    FOR_SERVER,
    HOLDER,
    client_side,
    hold_keys,
    server_material,
)
from ppml.aggregation.key_holder import ANNOUNCE, MARK, OPEN, SECRET, KeyRing
from ppml.aggregation.party import STOP
from ppml.aggregation.protocol import BadUpdate, Sealed
from ppml.config.technique import Bfv, Ckks

from ..federation.scanner import secret_holders

UPDATE = np.array([3, -5, 7])


class Counter:
    """Counts how often it is asked; asked in two at once it would miscount."""

    def __init__(self) -> None:
        self.count = 0

    def answer(self, what: bytes, content: bytes) -> bytes:
        before = self.count
        if content == b"bad":
            raise BadUpdate("that is bad")
        time.sleep(0.001)
        self.count = before + 1
        return str(self.count).encode()


@pytest.fixture
def doors(tmp_path):
    with open_doors("counter", Counter, tmp_path, {"front": frozenset({b"c"}), "back": frozenset({b"d"})}):
        yield tmp_path


def test_each_door_lets_its_own_questions_through(doors):
    front, back = enter("counter", doors / "front"), enter("counter", doors / "back")
    assert [front.ask(b"c"), back.ask(b"d"), front.ask(b"c")] == [b"1", b"2", b"3"]
    for line, other in ((front, b"d"), (back, b"c"), (front, b""), (front, STOP)):
        with pytest.raises(BadUpdate, match="the counter gives no answer to that"):
            line.ask(other)
    with pytest.raises(BadUpdate, match="that is bad"):
        front.ask(b"c", b"bad")
    assert front.ask(b"c") == b"4"


def test_many_who_ask_at_once_are_answered_one_after_the_other(doors):
    told: list[bytes] = []

    def ask() -> None:
        line = enter("counter", doors / "front")
        told.extend(line.ask(b"c") for _ in range(25))

    guests = [threading.Thread(target=ask) for _ in range(8)]
    for guest in guests:
        guest.start()
    for guest in guests:
        guest.join()
    assert sorted(map(int, told)) == list(range(1, 201))


def forged(door: Path, **changes: str) -> Path:
    other = door.with_name("forged")
    other.write_text(json.dumps({**json.loads(door.read_text()), **changes}))
    return other


def test_who_does_not_know_the_key_is_not_let_in_and_nothing_that_it_says_is_read(doors):
    with pytest.raises(ChildProcessError, match="the counter cannot be reached by"):
        enter("counter", forged(doors / "front", key="00" * 32))
    known = json.loads((doors / "front").read_text())
    stranger = Client(known["address"], "AF_UNIX")
    stranger.send_bytes(b"c")
    assert [stranger.recv_bytes()[:9] for _ in range(2)] == [b"#CHALLENG", b"#FAILURE#"]
    with pytest.raises((EOFError, OSError)):
        stranger.recv_bytes()
    # The key of one door does not open the other.
    with pytest.raises(ChildProcessError):
        enter("counter", forged(doors / "back", key=known["key"]))
    assert enter("counter", doors / "front").ask(b"c") == b"1", "nobody has asked before"


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"address": "/nowhere", "key": "00"}', '{"key": 5}'])
def test_a_file_that_is_no_door_is_named(content, tmp_path):
    (tmp_path / "door").write_text(content)
    with pytest.raises(ChildProcessError, match=r"the counter cannot be reached by .*door"):
        enter("counter", tmp_path / "door")


def test_files_and_socket_are_for_their_owner_alone_and_gone_in_the_end(tmp_path):
    with open_doors("counter", Counter, tmp_path, {"front": frozenset({b"c"})}):
        door = tmp_path / "front"
        address = Path(json.loads(door.read_text())["address"])
        assert door.stat().st_mode & 0o077 == 0 and address.parent.stat().st_mode & 0o077 == 0
        line = enter("counter", door)
        assert line.ask(b"c") == b"1"
    assert not door.exists() and not address.parent.exists()
    assert [one for one in multiprocessing.active_children() if one.name == "counter"] == []
    with pytest.raises(ChildProcessError, match="the counter is gone"):
        line.ask(b"c")


def test_who_says_nothing_keeps_nobody_waiting(doors):
    silent = [Client(json.loads((doors / "front").read_text())["address"], "AF_UNIX") for _ in range(3)]
    assert enter("counter", doors / "front").ask(b"c") == b"1"
    for one in silent:
        one.close()
    assert enter("counter", doors / "front").ask(b"c") == b"2"


def test_a_party_that_was_killed_is_named_to_who_is_inside_and_to_who_comes(doors):
    line = enter("counter", doors / "front")
    (party,) = [one for one in multiprocessing.active_children() if one.name == "counter"]
    os.kill(party.pid, signal.SIGKILL)
    party.join()
    with pytest.raises(ChildProcessError, match="the counter is gone"):
        line.ask(b"c")
    with pytest.raises(ChildProcessError, match="the counter cannot be reached by"):
        enter("counter", doors / "front")


def test_a_party_that_cannot_be_made_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        pytest.raises(ChildProcessError, match="the counter cannot be made: ZeroDivisionError"),
        open_doors("counter", lambda: 1 / 0, tmp_path / "files", {"front": frozenset()}),
    ):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.name != "files"]
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with (
        pytest.raises(ChildProcessError, match="the counter cannot be made: OSError: AF_UNIX path too long"),
        open_doors("counter", Counter, tmp_path / "files", {"front": frozenset()}),
    ):
        pass
    assert list(deep.iterdir()) == []


def test_what_fails_within_ends_the_party_as_well(tmp_path):
    with pytest.raises(ZeroDivisionError), open_doors("counter", Counter, tmp_path, {"front": frozenset()}):
        raise ZeroDivisionError
    assert [one for one in multiprocessing.active_children() if one.name == "counter"] == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see other processes")
def test_a_party_ends_with_the_program_that_opened_its_doors(tmp_path):
    program = (
        "import sys, time, multiprocessing; from pathlib import Path\n"
        "from ppml.aggregation.doors import open_doors\n"
        "from tests.aggregation.test_doors import Counter\n"
        "with open_doors('counter', Counter, Path(sys.argv[1]), {'front': frozenset()}):\n"
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


# The holder of a key behind two doors.


@pytest.mark.parametrize("spec", [Ckks(), Bfv(), Bfv(rounds_a_key=1)], ids=["ckks", "bfv", "a key a round"])
def test_sites_seal_add_and_open_by_their_doors(spec, tmp_path):
    with hold_keys(spec, 3, tmp_path):
        sites = [client_side(spec, 3, tmp_path) for _ in range(3)]
        server = build_server_side(spec, 3, server_material(tmp_path))
        assert not secret_holders(sites, server)
        for number in (1, 2):
            uploads = [site.seal(UPDATE, client, number) for client, site in enumerate(sites)]
            for client, upload in enumerate(uploads):
                server.check(upload, client, number)
            with pytest.raises(BadUpdate, match="no sum that the server has announced"):
                sites[0].unseal(uploads[1])
            total = server.add(uploads)
            assert all(site.unseal(total).tolist() == (3 * UPDATE).tolist() for site in sites)


def test_the_server_s_door_opens_no_sum_and_no_door_gives_the_key(tmp_path):
    with hold_keys(Bfv(), 3, tmp_path):
        site = client_side(Bfv(), 3, tmp_path)
        server = build_server_side(Bfv(), 3, server_material(tmp_path))
        total = server.add([site.seal(UPDATE, client, 1) for client in range(3)])
        by_server, by_client = enter(HOLDER, tmp_path / FOR_SERVER), enter(HOLDER, tmp_path / FOR_CLIENTS)
        for line, question in ((by_server, OPEN), (by_server, SECRET), (by_client, SECRET), (by_client, ANNOUNCE)):
            with pytest.raises(BadUpdate, match="gives no answer to that"):
                line.ask(question, total.length.to_bytes(8, "little") + total.payload)
        assert by_server.ask(MARK) == by_client.ask(MARK)


def test_a_holder_that_would_give_the_key_by_a_door_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(KeyRing, "public", KeyRing.secret)
    with hold_keys(Bfv(), 3, tmp_path), pytest.raises(RuntimeError, match="holds a secret key"):
        build_server_side(Bfv(), 3, server_material(tmp_path))


def test_a_holder_that_is_gone_is_named(tmp_path):
    with hold_keys(Bfv(), 3, tmp_path):
        site = client_side(Bfv(), 3, tmp_path)
    with pytest.raises(ChildProcessError, match="the holder of the secret key is gone"):
        site.unseal(Sealed("bfv", 3, b""))
    with pytest.raises(ChildProcessError, match="the holder of the secret key cannot be reached"):
        client_side(Bfv(), 3, tmp_path)
