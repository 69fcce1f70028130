"""Clients with something to hide live in a process that is not the server's."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ppml.aggregation import build as aggregation
from ppml.aggregation import lattice, masking
from ppml.aggregation.protocol import Parties
from ppml.federation import client as client_module

from .runs import federated_arm, run
from .scanner import secret_holders

SECRETIVE = [
    {"kind": "ckks"},
    {"kind": "ckks", "keys": "shared"},
    {"kind": "bfv", "keys": "shared"},
    {"kind": "shares"},
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


def check_nothing_is_done_in_the_process_of_the_server(watched: Watched) -> None:
    (parties,) = watched.parties
    assert watched.where("trains")
    for what in ("trains", "loads a key", "draws secrets"):
        assert os.getpid() not in watched.where(what), what
    assert not secret_holders(parties)
    assert not getattr(parties.clients, "_turns", None)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", SECRETIVE, ids=str)
def test_no_client_that_seals_lives_where_the_server_does(how, workers, tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, how, workers=workers)
    check_nothing_is_done_in_the_process_of_the_server(watched)
    assert bool(watched.where("loads a key")) == (how.get("keys") == "shared")
    assert bool(watched.where("draws secrets")) == (how["kind"] == "masking")


@pytest.mark.parametrize("how", [SECRETIVE[1], SECRETIVE[4]], ids=str)
def test_clients_that_stay_with_the_server_are_caught(how, tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, how, apart=False)
    with pytest.raises(AssertionError):
        check_nothing_is_done_in_the_process_of_the_server(watched)


def test_clients_in_the_clear_may_stay(tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, {"kind": "plaintext"})
    assert watched.where("trains") == {os.getpid()}


def test_the_server_closes_what_leads_to_the_holder_in_the_clients_place(tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch, {"kind": "ckks"})
    assert watched.parties[0].clients._holder._line._connection.closed
