"""Clients with something to hide live in a process that is not the server's."""

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

SECRETIVE = [
    {"kind": "ckks"},
    {"kind": "ckks", "keys": "shared"},
    {"kind": "bfv", "keys": "shared"},
    {"kind": "secret_sharing"},
    {"kind": "masking"},
]


class Watched:
    """One training, and in which processes its clients trained, sealed and loaded a secret key."""

    def __init__(self, folder: Path, monkeypatch, how: dict, *, apart: bool = True, workers: int = 1) -> None:
        self._notes = folder / "processes"
        self._notes.touch()
        self.parties: list[Parties] = []
        build, contribute, loaded = aggregation.build_parties, client_module._contribute, lattice.loaded
        begin = masking.MaskingClients._begin

        def built(spec, clients):
            made = build(spec, clients)
            self.parties.append(made if apart else replace(made, apart=None))
            return self.parties[-1]

        def noted(what, original):
            def wrapped(*given, **named):
                # What the server is given is tried as a secret key, to see that it is none: that must fail.
                done = original(*given, **named)
                if what != "loads a key" or isinstance(given[0], lattice.sealapi.SecretKey):
                    self._note(what)
                return done

            return wrapped

        monkeypatch.setattr(aggregation, "build_parties", built)
        monkeypatch.setattr(client_module, "_contribute", noted("trains", contribute))
        monkeypatch.setattr(lattice, "loaded", noted("loads a key", loaded))
        monkeypatch.setattr(masking.MaskingClients, "_begin", noted("draws secrets", begin))
        self.outcome = run(federated_arm(aggregation=how), workers=workers)

    def _note(self, what: str) -> None:
        with self._notes.open("a") as file:
            file.write(f"{os.getpid()} {what}\n")

    def where(self, what: str) -> set[int]:
        """Return the processes in which ``what`` was done."""
        told = [line.split(" ", 1) for line in self._notes.read_text().splitlines()]
        return {int(process) for process, done in told if done == what}


DONE_BY_CLIENTS = ("trains", "loads a key", "draws secrets")


def check_is_not_done_in_the_process_of_the_server(watched: Watched, what: str) -> None:
    assert os.getpid() not in watched.where(what)


def check_the_server_s_process_has_no_secret(watched: Watched) -> None:
    (parties,) = watched.parties
    assert not secret_holders(parties)
    assert not getattr(parties.clients, "_turns", None)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", SECRETIVE, ids=str)
def test_no_client_that_seals_lives_where_the_server_does(how, workers, tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, how, workers=workers)
    assert watched.where("trains")
    for what in DONE_BY_CLIENTS:
        check_is_not_done_in_the_process_of_the_server(watched, what)
    check_the_server_s_process_has_no_secret(watched)
    assert bool(watched.where("loads a key")) == (how.get("keys") == "shared")
    assert bool(watched.where("draws secrets")) == (how["kind"] == "masking")


@pytest.mark.parametrize(("how", "secret"), [(SECRETIVE[1], "loads a key"), (SECRETIVE[4], "draws secrets")], ids=str)
def test_clients_that_stay_with_the_server_are_caught(how, secret, tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, how, apart=False)
    for what in ("trains", secret):
        with pytest.raises(AssertionError):
            check_is_not_done_in_the_process_of_the_server(watched, what)
    with pytest.raises(AssertionError):
        check_the_server_s_process_has_no_secret(watched)


def test_clients_in_the_clear_may_stay(tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, {"kind": "plaintext"})
    assert watched.where("trains") == {os.getpid()}


@pytest.mark.parametrize("how", [SECRETIVE[0], SECRETIVE[3]], ids=str)
def test_the_clients_close_what_is_the_server_s(how, tmp_path, monkeypatch):
    """Else a client could announce an upload as a sum and open it, or ask a helping server for a sum."""
    told, contribute = tmp_path / "told", client_module._contribute

    def lines(material):
        return getattr(material, "lines", None) or [material._line]

    def noted(*given):
        open_ones = [not line._connection.closed for line in lines(watched_parties[0].material)]
        told.write_text(f"{sum(open_ones)} of {len(open_ones)}")
        return contribute(*given)

    watched_parties: list[Parties] = []
    build = aggregation.build_parties
    monkeypatch.setattr(
        aggregation, "build_parties", lambda *given: watched_parties.append(build(*given)) or watched_parties[-1]
    )
    monkeypatch.setattr(client_module, "_contribute", noted)
    run(federated_arm(aggregation=how))
    assert told.read_text() in ("0 of 1", "0 of 2")


def test_the_server_closes_what_leads_to_the_holder_in_the_clients_place(tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, {"kind": "ckks"})
    assert watched.parties[0].clients._holder._line._connection.closed
