"""The secret key: made and kept in a process of its own, from which nobody but the clients gets anything."""

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


# Who has the key.


@pytest.mark.parametrize("spec", [Ckks(), Bfv()], ids=["ckks", "bfv"])
def test_under_a_public_key_no_secret_is_in_the_process_of_the_server_and_the_clients(spec):
    made = build_parties(spec, 3)
    server = build_server_side(spec, 3, made.material)
    total = server.add([made.clients.protect(UPDATE), made.clients.protect(UPDATE)])
    assert made.clients.reveal(total).tolist() == (2 * UPDATE).tolist()
    assert not secret_holders(made, server)
    made.close()


def test_under_a_shared_key_the_clients_have_it_and_the_server_has_not():
    made = build_parties(Bfv(keys="shared"), 3)
    server = build_server_side(Bfv(keys="shared"), 3, made.material)
    assert not secret_holders(made.clients), "they ask for it where they first need it: in the process they live in"
    # The holder opens nothing then: they do.
    assert made.clients.reveal(made.clients.protect(UPDATE)).tolist() == UPDATE.tolist()
    assert secret_holders(made.clients) and not secret_holders(server, made.material)
    made.close()


@pytest.mark.parametrize("spec", [Ckks(), Bfv(keys="shared")], ids=["public", "shared"])
def test_a_process_that_has_parted_from_the_clients_can_ask_nothing_in_their_place_and_the_server_still_can(spec):
    made = build_parties(spec, 3)
    made.isolation.at_server()
    for ask in (lambda: made.clients.protect(UPDATE), lambda: made.clients.reveal(ProtectedUpdate(spec.kind, 3, b""))):
        with pytest.raises(ChildProcessError, match="the holder of the secret key is gone"):
            ask()
    assert build_server_side(spec, 3, made.material)._key() == fingerprint(made.material())
    assert len(holders()) == 1, "that nobody asks on one of its lines ends no holder"
    made.close()
    assert holders() == []


def line_of(parties: Parties, *, server: bool):
    return parties.material._connection if server else parties.clients._holder._connection


@pytest.mark.parametrize(
    "question", [DECRYPT, SECRET_KEY, STOP, b"?", b""], ids=["open", "secret", "stop", "else", "nothing"]
)
def test_the_server_gets_the_public_key_and_nothing_else(parties, question):
    upload = parties.clients.protect(UPDATE)
    line = line_of(parties, server=True)
    with pytest.raises(InvalidUpdate, match="the holder of the secret key gives no answer to that"):
        line.ask(question, len(UPDATE).to_bytes(8, "little") + upload.payload)
    assert fingerprint(line.ask(PUBLIC_KEY)) == upload.payload[:16], "and the holder is still there"


@pytest.mark.parametrize("question", [SECRET_KEY, ANNOUNCE], ids=["secret", "announce"])
def test_clients_under_a_public_key_do_not_get_the_secret_one_and_do_not_say_what_is_a_sum(parties, question):
    with pytest.raises(InvalidUpdate, match="gives no answer"):
        line_of(parties, server=False).ask(question)


def test_a_holder_that_would_give_the_server_the_secret_key_is_caught(monkeypatch):
    """What the server is given is looked at: it takes a public key, or stops."""
    monkeypatch.setattr(KeyHolderService, "public", KeyHolderService.secret)
    made = build_parties(Bfv(), 3)
    with pytest.raises(RuntimeError, match="contains a secret key"):
        build_server_side(Bfv(), 3, made.material)
    made.close()


def test_no_secret_key_is_written_to_a_disk_where_there_are_no_files_in_memory(monkeypatch):
    monkeypatch.setattr("ppml.aggregation.key_holder.FILES_IN_MEMORY", False)
    with pytest.raises(UserError, match=r"aggregation\.keys: got 'shared'.*written to a disk; allowed: public"):
        build_parties(Bfv(keys="shared"), 3)
    build_parties(Bfv(), 3).close()


def test_what_passes_through_temporary_files_elsewhere_is_no_secret_key_and_none_is_left(monkeypatch, tmp_path):
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


def test_the_public_key_is_sent_once_and_again_where_it_is_a_new_one():
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


# What it opens.


def test_what_is_no_sum_of_this_run_is_refused_and_the_holder_goes_on(parties):
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
def test_a_client_alone_opens_no_update_and_brings_no_new_key(spec):
    made = build_parties(spec, 3)
    server = build_server_side(spec, 3, made.material)
    uploads = [made.clients.protect(UPDATE, client, 1) for client in range(3)]
    check_clients_alone_open_none_of(made, uploads)
    for client, upload in enumerate(uploads):
        server.check(upload, client, 1)
    total = server.add(uploads)
    check_clients_alone_open_none_of(made, uploads)
    # Nor an upload that goes by the name of the sum.
    with pytest.raises(InvalidUpdate, match="truncated or altered"):
        made.clients.reveal(replace(total, payload=total.payload[:32] + uploads[0].payload[32:]))
    assert made.clients.reveal(total).tolist() == (3 * UPDATE).tolist()
    made.close()


def test_a_holder_that_opens_whatever_it_is_handed_is_caught(monkeypatch):
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
def test_a_made_up_upload_passes_and_the_sum_that_it_spoils_tells_of_the_key(spec):
    """What is said of the threat: a client that does not follow the protocol learns of the key, and all see the sum."""
    maker = Local(spec, 3)
    key = sealapi.KeyGenerator(maker.scheme.context).secret_key()
    key.data().set_zero()
    # A uniform polynomial, which the secret key multiplies, and no mask of it.
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


def test_a_server_that_colludes_with_a_client_opens_an_update(parties):
    """What is said of the threat: the two together need nobody else."""
    upload = parties.clients.protect(UPDATE, 1, 1)
    parties.material.announce(upload)
    assert parties.clients.reveal(upload).tolist() == UPDATE.tolist()


def test_a_sum_that_all_clients_ask_for_is_opened_once(monkeypatch):
    local, opened = Local(Bfv(), 3), []
    original = type(local.keys).decrypt
    monkeypatch.setattr(type(local.keys), "decrypt", lambda keys, total: opened.append(total) or original(keys, total))
    totals = [local.protect(UPDATE + number) for number in range(6)]
    for number, total in enumerate(totals):
        for _ in range(3):
            assert local.reveal(total).tolist() == (UPDATE + number).tolist()
    assert opened == totals
    # Who is late is served, too.
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
    # Who has missed rounds asks for their sums under the keys of then.
    for total in totals:
        assert local.reveal(total).tolist() == (3 * UPDATE).tolist()
    return found


@pytest.mark.parametrize(("rounds_per_key", "distinct"), [(None, 1), (1, 6), (2, 3), (5, 2)])
def test_a_new_key_is_made_after_so_many_sums(rounds_per_key, distinct):
    found = marks(rounds_per_key, 6)
    assert len(set(found)) == distinct
    assert sorted(found, key=found.index) == found, "no earlier key comes back"


def test_who_is_late_and_asks_for_sums_of_before_brings_no_new_key():
    """Otherwise the others would have sealed under the key of before, and a sum be opened of the one who was late."""
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


def test_an_update_under_an_earlier_key_is_refused():
    local = Local(Bfv(rounds_per_key=1), 3)
    server, early = local.server(), local.protect(UPDATE)
    local.reveal(server.add([early]))
    with pytest.raises(InvalidUpdate, match="another key"):
        server.check(early)
    server.check(local.protect(UPDATE))


# Its end.


def test_the_holder_ends_when_it_is_closed_and_says_so_afterwards():
    made = build_parties(Bfv(), 3)
    assert len(holders()) == 1
    made.close()
    assert holders() == []
    for ask in (made.material, lambda: made.clients.protect(UPDATE)):
        with pytest.raises(
            ChildProcessError, match="the holder of the secret key is gone, and all that it held with it"
        ):
            ask()
    made.close()


def test_the_holder_ends_with_the_clients_that_nobody_closed():
    made = build_parties(Bfv(), 3)
    assert len(holders()) == 1
    del made
    assert holders() == []


def test_a_holder_that_dies_ends_the_training_with_an_error_that_says_so(parties):
    (holder,) = holders()
    os.kill(holder.pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="the holder of the secret key is gone"):
        parties.clients.protect(UPDATE)


def test_a_holder_that_fails_is_gone_and_keeps_nobody_waiting(monkeypatch):
    def fails(ring, what, content):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(KeyHolderService, "answer", fails)
    with pytest.raises(ChildProcessError, match="the holder of the secret key is gone"):
        build_parties(Bfv(keys="shared"), 3)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see what a process holds open")
def test_a_party_holds_no_line_to_another():
    """Else one helping server could ask the next for a sum in the name of the server."""

    def sockets(process: int | str) -> set[str]:
        found = set()
        for one in Path(f"/proc/{process}/fd").iterdir():
            # The one that the list is read by is gone by now.
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
"""With clients in the middle of a round, who would look for their parent only at its end."""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see other processes")
@pytest.mark.parametrize(
    ("parts", "count"), [(HOLDERS, 2), (WORKERS, 3), (BUSY, 3)], ids=["holders", "clients and a holder", "busy clients"]
)
def test_no_process_outlives_one_that_is_killed(parts, count):
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
