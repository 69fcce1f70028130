"""Clients with secrets run in another process than the server."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ppml.aggregation import factory as aggregation
from ppml.aggregation import lattice, masking
from ppml.aggregation.interfaces import Parties
from ppml.federation import client as client_module

from .runs import federated_arm, run
from .scanner import secret_holders

PROTECTED = [
    {"kind": "ckks"},
    {"kind": "ckks", "keys": "shared"},
    {"kind": "bfv", "keys": "shared"},
    {"kind": "secret_sharing"},
    {"kind": "masking"},
]


class Watched:
    """One training, and the processes in which its clients trained, drew secrets and loaded a secret key."""

    def __init__(self, folder: Path, monkeypatch, how: dict, *, isolated: bool = True, workers: int = 1) -> None:
        self._notes = folder / "processes"
        self._notes.touch()
        self.parties: list[Parties] = []
        build, contribute, loaded = (
            aggregation.build_parties,
            client_module._compute_protected_update,
            lattice.deserialize,
        )
        begin = masking.MaskingClients._begin

        def built(spec, clients):
            made = build(spec, clients)
            self.parties.append(made if isolated else replace(made, isolation=None))
            return self.parties[-1]

        def noted(what, original):
            def wrapped(*given, **named):
                # The server tries to load its material as a secret key, which must fail.
                done = original(*given, **named)
                if what != "loads a key" or isinstance(given[0], lattice.sealapi.SecretKey):
                    self._note(what)
                return done

            return wrapped

        monkeypatch.setattr(aggregation, "build_parties", built)
        monkeypatch.setattr(client_module, "_compute_protected_update", noted("trains", contribute))
        monkeypatch.setattr(lattice, "deserialize", noted("loads a key", loaded))
        monkeypatch.setattr(masking.MaskingClients, "_begin", noted("draws secrets", begin))
        self.outcome = run(federated_arm(aggregation=how), workers=workers)

    def _note(self, what: str) -> None:
        with self._notes.open("a") as file:
            file.write(f"{os.getpid()} {what}\n")

    def processes(self, action: str) -> set[int]:
        """Return the processes with a note of ``action``."""
        notes = [line.split(" ", 1) for line in self._notes.read_text().splitlines()]
        return {int(process) for process, noted in notes if noted == action}


CLIENT_ACTIONS = ("trains", "loads a key", "draws secrets")


def check_not_in_the_server_process(watched: Watched, what: str) -> None:
    assert os.getpid() not in watched.processes(what)


def check_server_process_has_no_secret(watched: Watched) -> None:
    (parties,) = watched.parties
    assert not secret_holders(parties)
    assert not getattr(parties.clients, "_states", None)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", PROTECTED, ids=str)
def test_protecting_clients_run_outside_the_server_process(how, workers, tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, how, workers=workers)
    assert watched.processes("trains")
    for what in CLIENT_ACTIONS:
        check_not_in_the_server_process(watched, what)
    check_server_process_has_no_secret(watched)
    assert bool(watched.processes("loads a key")) == (how.get("keys") == "shared")
    assert bool(watched.processes("draws secrets")) == (how["kind"] == "masking")


@pytest.mark.parametrize(("how", "secret"), [(PROTECTED[1], "loads a key"), (PROTECTED[4], "draws secrets")], ids=str)
def test_clients_in_the_server_process_are_detected(how, secret, tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, how, isolated=False)
    for what in ("trains", secret):
        with pytest.raises(AssertionError):
            check_not_in_the_server_process(watched, what)
    with pytest.raises(AssertionError):
        check_server_process_has_no_secret(watched)


def test_plaintext_clients_run_in_the_server_process(tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, {"kind": "plaintext"})
    assert watched.processes("trains") == {os.getpid()}


@pytest.mark.parametrize("how", [PROTECTED[0], PROTECTED[3]], ids=str)
def test_clients_close_the_connections_of_the_server(how, tmp_path, monkeypatch):
    """Otherwise a client could announce an upload as a sum and reveal it, or ask a share server for a sum."""
    told, contribute = tmp_path / "told", client_module._compute_protected_update

    def lines(material):
        return getattr(material, "connections", None) or [material._connection]

    def noted(*given):
        open_ones = [not line._connection.closed for line in lines(watched_parties[0].material)]
        told.write_text(f"{sum(open_ones)} of {len(open_ones)}")
        return contribute(*given)

    watched_parties: list[Parties] = []
    build = aggregation.build_parties
    monkeypatch.setattr(
        aggregation, "build_parties", lambda *given: watched_parties.append(build(*given)) or watched_parties[-1]
    )
    monkeypatch.setattr(client_module, "_compute_protected_update", noted)
    run(federated_arm(aggregation=how))
    assert told.read_text() in ("0 of 1", "0 of 2")


def test_server_closes_the_clients_connection_to_the_key_holder(tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, {"kind": "ckks"})
    assert watched.parties[0].clients._holder._connection._connection.closed
