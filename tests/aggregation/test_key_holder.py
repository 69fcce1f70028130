"""The key holder keeps the secret key in a process of its own, and answers only allowed requests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from tenseal import sealapi

from ppml.aggregation import lattice
from ppml.aggregation.envelope import fingerprint, header_of
from ppml.aggregation.factory import build_parties, build_server_side
from ppml.aggregation.interfaces import Parties, ProtectedUpdate
from ppml.aggregation.key_holder import (
    ANNOUNCE,
    DECRYPT,
    KEY_ID,
    PUBLIC_KEY,
    SECRET_KEY,
    KeyHolderService,
    PublicKeyClient,
)
from ppml.aggregation.lattice import serialize
from ppml.config.technique import Bfv, Ckks, SecretSharing
from ppml.errors import InvalidUpdate, UserError
from ppml.ipc.process import STOP

from ..federation.scanner import secret_holders
from .local import Local

UPDATE = np.arange(-50, 50)


@pytest.fixture
def parties():
    made = build_parties(Bfv(), 3)
    yield made
    made.close()


def holders() -> list:
    return [process for process in active_children() if process.name == "holder of the secret key"]


# Access to the key.


@pytest.mark.parametrize("spec", [Ckks(), Bfv()], ids=["ckks", "bfv"])
def test_public_key_mode_keeps_secret_in_holder(spec):
    made = build_parties(spec, 3)
    server = build_server_side(spec, 3, made.material)
    total = server.add([made.clients.protect(UPDATE), made.clients.protect(UPDATE)])
    assert made.clients.reveal(total).tolist() == (2 * UPDATE).tolist()
    assert not secret_holders(made, server)
    made.close()


def test_shared_key_is_with_clients_and_not_server():
    made = build_parties(Bfv(keys="shared"), 3)
    server = build_server_side(Bfv(keys="shared"), 3, made.material)
    assert not secret_holders(made.clients), "the clients request the key at first use, in their own process"
    # The clients decrypt, not the holder.
    assert made.clients.reveal(made.clients.protect(UPDATE)).tolist() == UPDATE.tolist()
    assert secret_holders(made.clients) and not secret_holders(server, made.material)
    made.close()


@pytest.mark.parametrize("spec", [Ckks(), Bfv(keys="shared")], ids=["public", "shared"])
def test_isolated_server_loses_connections_of_clients(spec):
    made = build_parties(spec, 3)
    made.isolation.at_server()
    for ask in (lambda: made.clients.protect(UPDATE), lambda: made.clients.reveal(ProtectedUpdate(spec.kind, 3, b""))):
        with pytest.raises(ChildProcessError, match="the holder of the secret key has ended"):
            ask()
    assert build_server_side(spec, 3, made.material)._key() == fingerprint(made.material())
    assert len(holders()) == 1, "a closed connection does not end the holder"
    made.close()
    assert holders() == []


def line_of(parties: Parties, *, server: bool):
    return parties.material._connection if server else parties.clients._holder._connection


@pytest.mark.parametrize(
    "question", [DECRYPT, SECRET_KEY, STOP, b"?", b""], ids=["open", "secret", "stop", "else", "nothing"]
)
def test_holder_refuses_other_requests_of_server(parties, question):
    upload = parties.clients.protect(UPDATE)
    line = line_of(parties, server=True)
    with pytest.raises(InvalidUpdate, match="the holder of the secret key gives no answer to that"):
        line.ask(question, len(UPDATE).to_bytes(8, "little") + upload.payload)
    assert fingerprint(line.ask(PUBLIC_KEY)) == upload.payload[:16], "and the holder is still there"


@pytest.mark.parametrize("question", [SECRET_KEY, ANNOUNCE], ids=["secret", "announce"])
def test_holder_refuses_secret_key_and_announcement_to_clients(parties, question):
    with pytest.raises(InvalidUpdate, match="gives no answer"):
        line_of(parties, server=False).ask(question)


def test_server_detects_secret_key(monkeypatch):
    """The server verifies its key material: a run without a public key stops."""
    monkeypatch.setattr(KeyHolderService, "public", KeyHolderService.secret)
    made = build_parties(Bfv(), 3)
    with pytest.raises(RuntimeError, match="contains a secret key"):
        build_server_side(Bfv(), 3, made.material)
    made.close()


def test_secret_key_is_never_written_to_disk(monkeypatch):
    monkeypatch.setattr("ppml.aggregation.key_holder.FILES_IN_MEMORY", False)
    with pytest.raises(UserError, match=r"aggregation\.keys: got 'shared'.*written to a disk; allowed: public"):
        build_parties(Bfv(keys="shared"), 3)
    build_parties(Bfv(), 3).close()


def test_temporary_files_hold_no_secret_key_and_are_deleted(monkeypatch, tmp_path):
    monkeypatch.setattr("ppml.aggregation.seal_serialization.FILES_IN_MEMORY", False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made, saved_of = [], lattice.serialize
    monkeypatch.setattr(lattice, "serialize", lambda one: made.append(type(one).__name__) or saved_of(one))
    local = Local(Bfv(), 3)
    assert (
        local.reveal(local.server().add([local.protect(UPDATE), local.protect(UPDATE)])).tolist()
        == (2 * UPDATE).tolist()
    )
    assert set(made) == {"PublicKey", "Ciphertext"} and not list(tmp_path.iterdir())


def test_each_public_key_is_sent_once():
    local, asked = Local(Bfv(rounds_per_key=1), 3), []

    class Asked:
        def ask(self, what, content=b""):
            asked.append(what)
            return local.ring.answer(what, content)

    line = PublicKeyClient(Asked())
    first = line()
    assert line() == first == local.material() and asked == [KEY_ID, PUBLIC_KEY, KEY_ID]
    local.reveal(local.protect(UPDATE))
    assert line() != first and line() == local.material() and asked[3:] == [KEY_ID, PUBLIC_KEY, KEY_ID]


# Decryption of sums.


def test_holder_refuses_other_ciphertexts_and_continues(parties):
    server = build_server_side(Bfv(), 3, parties.material)
    total = server.add([parties.clients.protect(UPDATE), parties.clients.protect(UPDATE)])
    foreign = Local(Bfv(), 3).protect(UPDATE)
    for bad in (foreign, ProtectedUpdate("bfv", 3, b""), ProtectedUpdate("bfv", 3, b"x" * 100)):
        with pytest.raises(InvalidUpdate, match="server has not announced this sum"):
            parties.clients.reveal(bad)
    with pytest.raises(InvalidUpdate, match="truncated or altered"):
        parties.clients.reveal(ProtectedUpdate("bfv", total.length, total.payload[:-1]))
    with pytest.raises(InvalidUpdate, match="unpack"):
        line_of(parties, server=False).ask(DECRYPT, b"xy")
    assert parties.clients.reveal(total).tolist() == (2 * UPDATE).tolist()


def check_clients_alone_open_none_of(made: Parties, uploads: Iterable[ProtectedUpdate]) -> None:
    for upload in uploads:
        with pytest.raises(InvalidUpdate, match="server has not announced this sum"):
            made.clients.reveal(upload)


@pytest.mark.parametrize("spec", [Ckks(), Bfv(), Bfv(rounds_per_key=1)], ids=["ckks", "bfv", "a key a round"])
def test_client_alone_decrypts_no_update(spec):
    made = build_parties(spec, 3)
    server = build_server_side(spec, 3, made.material)
    uploads = [made.clients.protect(UPDATE, client, 1) for client in range(3)]
    check_clients_alone_open_none_of(made, uploads)
    for client, upload in enumerate(uploads):
        server.check(upload, client, 1)
    total = server.add(uploads)
    check_clients_alone_open_none_of(made, uploads)
    # An upload with the identifier of the sum is refused, too.
    with pytest.raises(InvalidUpdate, match="truncated or altered"):
        made.clients.reveal(replace(total, payload=total.payload[:32] + uploads[0].payload[32:]))
    assert made.clients.reveal(total).tolist() == (3 * UPDATE).tolist()
    made.close()


def test_holder_without_announcement_check_is_detected(monkeypatch):
    class Anything(set):
        def __contains__(self, name):
            return True

    original = KeyHolderService.__init__

    def careless(self, *given):
        original(self, *given)
        self._announced = Anything()

    monkeypatch.setattr(KeyHolderService, "__init__", careless)
    made = build_parties(Bfv(), 3)
    with pytest.raises(pytest.fail.Exception):
        check_clients_alone_open_none_of(made, [made.clients.protect(UPDATE, 1, 1)])
    made.close()


@pytest.mark.parametrize("spec", [Ckks(), Bfv()], ids=["ckks", "bfv"])
def test_fabricated_upload_passes_and_sum_depends_on_key(spec):
    """The threat statement: a deviating client learns about the key, and all clients see the sum."""
    maker = Local(spec, 3)
    key = sealapi.KeyGenerator(maker.scheme.context).secret_key()
    key.data().set_zero()
    # A uniform polynomial, which the secret key multiplies, without a mask.
    (plain,) = maker.scheme.plaintexts(np.zeros_like(UPDATE))
    made_up = serialize(sealapi.Encryptor(maker.scheme.context, key).encrypt_symmetric(plain))
    shown = []
    for local in (Local(spec, 3), Local(spec, 3)):
        upload = local.scheme.pack(local.fingerprint, len(UPDATE), [made_up], header_of(0, 0))
        server = local.server()
        server.check(upload)
        shown.append(local.reveal(server.add([upload, local.protect(UPDATE)])))
    assert np.mean(shown[0] == shown[1]) < 0.1, "the same uploads under another key, another sum"
    assert all(np.mean(np.abs(total) < 1000) < 0.1 for total in shown), "and none that passes for one"


def test_server_with_colluding_client_decrypts_update(parties):
    """The threat statement: server and client together need no other party."""
    upload = parties.clients.protect(UPDATE, 1, 1)
    parties.material.announce(upload)
    assert parties.clients.reveal(upload).tolist() == UPDATE.tolist()


def test_repeated_sum_is_decrypted_once(monkeypatch):
    local, opened = Local(Bfv(), 3), []
    original = type(local.keys).decrypt
    monkeypatch.setattr(type(local.keys), "decrypt", lambda keys, total: opened.append(total) or original(keys, total))
    totals = [local.protect(UPDATE + number) for number in range(6)]
    for number, total in enumerate(totals):
        for _ in range(3):
            assert local.reveal(total).tolist() == (UPDATE + number).tolist()
    assert opened == totals
    # The holder serves late clients, too.
    assert local.reveal(totals[0]).tolist() == UPDATE.tolist()


# New keys.


def marks(rounds_per_key: int | None, rounds: int) -> list[bytes]:
    local = Local(Bfv(rounds_per_key=rounds_per_key), 3)
    server, found, totals = local.server(), [], []
    for _ in range(rounds):
        uploads = [local.protect(UPDATE) for _ in range(3)]
        for upload in uploads:
            server.check(upload)
        (mark,) = {upload.payload[:16] for upload in uploads}
        totals.append(server.add(uploads))
        for _ in range(3):
            assert local.reveal(totals[-1]).tolist() == (3 * UPDATE).tolist()
        found.append(mark)
    # A late client requests missed sums under their keys.
    for total in totals:
        assert local.reveal(total).tolist() == (3 * UPDATE).tolist()
    return found


@pytest.mark.parametrize(("rounds_per_key", "distinct"), [(None, 1), (1, 6), (2, 3), (5, 2)])
def test_new_key_follows_after_given_rounds(rounds_per_key, distinct):
    found = marks(rounds_per_key, 6)
    assert len(set(found)) == distinct
    assert sorted(found, key=found.index) == found, "no earlier key comes back"


def test_late_client_triggers_no_new_key():
    """Otherwise the other clients would encrypt under the earlier key, and the late client would be alone in a sum."""
    local = Local(Bfv(rounds_per_key=6), 3)
    server, totals = local.server(), []
    for _ in range(5):
        totals.append(server.add([local.protect(UPDATE), local.protect(UPDATE)]))
        local.reveal(totals[-1])
    early = local.protect(UPDATE)
    for total in totals:
        local.reveal(total)
    late = local.protect(UPDATE)
    assert early.payload[:16] == late.payload[:16]
    for upload in (early, late):
        server.check(upload)


def test_update_under_earlier_key_is_refused():
    local = Local(Bfv(rounds_per_key=1), 3)
    server, early = local.server(), local.protect(UPDATE)
    local.reveal(server.add([early]))
    with pytest.raises(InvalidUpdate, match="another key"):
        server.check(early)
    server.check(local.protect(UPDATE))


# End of the holder.


def test_close_ends_holder():
    made = build_parties(Bfv(), 3)
    assert len(holders()) == 1
    made.close()
    assert holders() == []
    for ask in (made.material, lambda: made.clients.protect(UPDATE)):
        with pytest.raises(ChildProcessError, match="the holder of the secret key has ended"):
            ask()
    made.close()


def test_holder_ends_with_deleted_clients():
    made = build_parties(Bfv(), 3)
    assert len(holders()) == 1
    del made
    assert holders() == []


def test_killed_holder_raises_error_at_clients(parties):
    (holder,) = holders()
    os.kill(holder.pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="the holder of the secret key has ended"):
        parties.clients.protect(UPDATE)


def test_failing_holder_does_not_block_clients(monkeypatch):
    def fails(ring, what, content):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(KeyHolderService, "answer", fails)
    with pytest.raises(ChildProcessError, match="the holder of the secret key has ended"):
        build_parties(Bfv(keys="shared"), 3)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to list the open files of a process")
def test_share_server_has_no_connection_to_other_one():
    """Otherwise one share server could request a sum from the next one in the server's place."""

    def sockets(process: int | str) -> set[str]:
        found = set()
        for one in Path(f"/proc/{process}/fd").iterdir():
            # The descriptor of the directory listing is closed by now.
            with contextlib.suppress(FileNotFoundError):
                found.add(str(one.readlink()))
        return {end for end in found if end.startswith("socket:")}

    before = sockets("self")
    made = build_parties(SecretSharing(servers=3), 3)
    helpers = sorted(child.pid for child in active_children() if child.name.startswith("server "))
    first, second = ({*sockets(helper)} - before for helper in helpers)
    assert first and second and not first & second
    assert not (first | second) & sockets("self")
    made.close()


HOLDERS = "kept = [build_parties(Bfv(), 3) for _ in range(2)]"
WORKERS = (
    "kept = build_parties(Bfv(), 3); "
    "from flwr.clientapp import ClientApp; from ppml.federation.client_workers import ForkedWorker; "
    "sites = [ForkedWorker(ClientApp(), {}, print) for _ in range(2)]"
)
BUSY = WORKERS.replace("print)", "print, lambda: all(iter(lambda: True, False)))")
"""Clients in the middle of a round, which check for their parent only at its end."""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see other processes")
@pytest.mark.parametrize(
    ("parts", "count"), [(HOLDERS, 2), (WORKERS, 3), (BUSY, 3)], ids=["holders", "clients and a holder", "busy clients"]
)
def test_child_processes_end_with_killed_parent(parts, count):
    program = (
        "import ppml.federation.flower_env, time; from ppml.aggregation.factory import build_parties; "
        "from ppml.config.technique import Bfv; from multiprocessing import active_children; "
        f"{parts}; print(*(child.pid for child in active_children()), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    found = [int(number) for number in process.stdout.readline().split()]
    assert len(found) == count
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(is_alive(number) for number in found) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(number) for number in found)


def is_alive(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
