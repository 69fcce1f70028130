"""What the server gets to see, byte for byte, and that the scan for it would find a leak."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from ppml.aggregation.factory import build_server_side
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.interfaces import ProtectedUpdate, SecretKeyExposed
from ppml.aggregation.lattice import LatticeServer
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.config.technique import Ckks
from ppml.federation import run as run_module
from ppml.federation.client import ClientPool
from ppml.federation.factory import FederationSpec, ServerComponents, build_client_pool, build_server, party_seeds
from ppml.federation.messages import INITIAL, UPDATE
from ppml.federation.run import build_server_app
from ppml.federation.server import FederatedServer
from ppml.learning.parameters import flatten
from ppml.randomness import Randomness

from ..aggregation.local import Local, Material, local_parties
from ..learning.digits import cnn
from .runs import SIZES, Traffic, federated_arm, foreign_images, ignore, owners, population, run, run_and_record
from .scanner import (
    holds_a_run,
    plaintext_forms,
    reachable,
    secret_coefficients,
    secret_holders,
    secret_key_in,
    serialized_secret,
    telling_words,
    updates_in,
)

STEP = 2.0**-20


@cache
def encrypted_run() -> Traffic:
    return run_and_record(federated_arm(encrypted=True))


# The secret key.


def check_no_secret_key_reaches_the_server(traffic: Traffic) -> None:
    (side,) = traffic.sides
    assert len(traffic.messages) == 2 * (3 + 2 * (3 + 1)), (
        "both ways: the roll of three clients, and two rounds in which three train and one measures"
    )
    assert traffic.public_material[0]
    assert not secret_key_in(traffic.reaching_the_server(), side)


def test_no_part_of_the_secret_key_reaches_the_server_in_any_message():
    check_no_secret_key_reaches_the_server(encrypted_run())


@pytest.mark.parametrize(
    "aggregation",
    [{"kind": "bfv"}, {"kind": "bfv", "keys": "shared"}, {"kind": "ckks", "keys": "shared"}],
    ids=["bfv", "bfv shared", "ckks shared"],
)
def test_no_part_of_a_key_or_an_update_reaches_the_server_whatever_is_encrypted_by(aggregation):
    traffic = run_and_record(federated_arm(aggregation=aggregation))
    check_no_secret_key_reaches_the_server(traffic)
    check_no_update_is_readable(traffic)
    (side,) = traffic.sides
    assert secret_key_in([*traffic.reaching_the_server(), b"x" + serialized_secret(side)], side)


@pytest.mark.parametrize("aggregation", [{"kind": "secret_sharing"}, {"kind": "masking"}], ids=["shares", "masking"])
def test_no_part_of_an_update_is_readable_among_shares_and_masks(aggregation):
    traffic = run_and_record(federated_arm(aggregation=aggregation))
    # The sum is in what goes down: its server sees it.
    traffic.messages = [(direction, message) for direction, message in traffic.messages if direction == "up"]
    check_no_update_is_readable(traffic)


def leaking(how) -> Traffic:
    """Return the traffic of clients that add ``how(side)`` to what they seal."""

    def make_side(side: Local) -> Local:
        seal = side.protect

        def leaky(update: np.ndarray, *turn: int) -> ProtectedUpdate:
            sealed = seal(update, *turn)
            return ProtectedUpdate(sealed.scheme, sealed.length, sealed.payload + how(side))

        side.protect = leaky
        return side

    return run_and_record(federated_arm(encrypted=True), make_side=make_side, broken=True)


LEAKS = {
    "a serialized key": serialized_secret,
    "a serialized key, shifted": lambda side: b"xyz" + serialized_secret(side),
    "part of a serialized key": lambda side: serialized_secret(side)[20_000:20_200],
    "coefficients": lambda side: secret_coefficients(side).tobytes(),
    "eight coefficients": lambda side: b"x" + secret_coefficients(side)[100:108].tobytes(),
    "coefficients, big-endian": lambda side: secret_coefficients(side).astype(">u8").tobytes(),
}


@pytest.mark.parametrize("how", LEAKS.values(), ids=LEAKS)
def test_a_client_that_adds_its_key_to_an_upload_is_caught(how):
    (side,) = (traffic := leaking(how)).sides
    uploads = [message for direction, message in traffic.messages if direction == "up" and UPDATE in message.content]
    assert len(uploads) >= 3, "the leak is to be seen where it happens, before the server reads it"
    assert secret_key_in(traffic.reaching_the_server(), side)


def test_another_key_is_not_mistaken_for_the_secret_one():
    (side,) = encrypted_run().sides
    other = Local(Ckks(), 3)
    assert not secret_key_in([other.material(), os.urandom(100_000)], side)


def test_private_material_stops_the_run_before_it_begins():
    def make_side(side: Local) -> Local:
        side.material = lambda: serialized_secret(side)
        return side

    with pytest.raises(SecretKeyExposed):
        run_and_record(federated_arm(encrypted=True), make_side=make_side)
    traffic = run_and_record(federated_arm(encrypted=True), make_side=make_side, broken=True)
    assert traffic.messages == []


def parties() -> tuple[ClientPool, ServerComponents]:
    """Return clients that encrypt, and what their server has."""
    arm, model = federated_arm(encrypted=True), cnn()
    given = FederationSpec(arm, SIZES, [None] * 3, [None] * 3)
    seeds = party_seeds(Randomness(1), 3)
    both = local_parties(arm.aggregation, 3)
    clients = build_client_pool(given, model, dict(enumerate(owners())), both.clients, foreign_images(), seeds.clients)
    return clients, build_server(given, flatten(model), both.material, seeds.server)


def check_the_server_app_leads_to_no_key(build) -> None:
    clients, server = parties()
    assert secret_holders(clients), "the search must find the clients' key where there is one"
    assert not secret_holders(build(server, clients), server)


def test_nothing_that_the_server_app_holds_leads_to_a_secret_key():
    check_the_server_app_leads_to_no_key(lambda server, clients: build_server_app(server, ignore, ignore))


def test_a_server_app_that_holds_the_clients_is_caught():
    def careless(server: ServerComponents, clients: ClientPool) -> ServerApp:
        app = ServerApp()

        @app.main()
        def main(grid, context):
            plan = replace(server.plan, rounds=clients.rounds)
            FederatedServer(plan, server.aggregator, ignore, ignore).run(grid)

        return app

    with pytest.raises(AssertionError):
        check_the_server_app_leads_to_no_key(careless)


def server_apps(monkeypatch, arm, workers: int) -> list[ServerApp]:
    """Return the app that the server of a training of ``arm`` runs."""
    built = []
    original = run_module.build_server_app

    def spied(*given):
        built.append(original(*given))
        return built[-1]

    monkeypatch.setattr(run_module, "build_server_app", spied)
    run(arm, workers=workers)
    return built


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_that_the_server_app_of_a_whole_training_holds_leads_to_a_secret_key(workers, monkeypatch):
    (app,) = server_apps(monkeypatch, federated_arm(encrypted=True, rounds=1), workers)
    assert any(isinstance(one, LatticeServer) for one in reachable(app)), "the search must find what the app holds"
    assert not secret_holders(app)


# The updates.


def check_no_update_is_readable(traffic: Traffic, rounds: int = 2) -> None:
    assert len(traffic.updates) == 3 * rounds, "all rounds of three clients"
    assert all(np.count_nonzero(update) > 20_000 for update in traffic.updates)
    assert not updates_in(traffic.reaching_the_server(), traffic.updates, STEP)


def test_no_part_of_an_update_is_readable_at_the_server_under_encryption():
    check_no_update_is_readable(encrypted_run())


def test_plaintext_aggregation_is_caught():
    with pytest.raises(AssertionError, match="updates_in"):
        check_no_update_is_readable(run_and_record(federated_arm()))


def test_a_client_that_sends_some_values_in_the_clear_beside_the_ciphertext_is_caught():
    def make_side(side: Local) -> Local:
        seal = side.protect

        def leaky(update: np.ndarray, *turn: int) -> ProtectedUpdate:
            sealed = seal(update, *turn)
            return ProtectedUpdate(sealed.scheme, sealed.length, sealed.payload + update[5000:5100].astype("<i4").tobytes())

        side.protect = leaky
        return side

    # The server refuses such an update, and the first round is the last.
    traffic = run_and_record(federated_arm(encrypted=True), make_side=make_side, broken=True)
    with pytest.raises(AssertionError, match="updates_in"):
        check_no_update_is_readable(traffic, rounds=1)


def test_neither_the_sum_nor_the_model_is_readable_at_the_server_after_the_first_round():
    traffic = encrypted_run()
    later = [
        payload
        for payload, (_, message) in zip(traffic.reaching_the_server()[1:], traffic.messages, strict=True)
        if INITIAL not in message.content
    ]
    sums = [np.sum(traffic.updates[:3], axis=0), np.sum(traffic.updates[3:], axis=0)]
    assert not updates_in(later, sums, STEP)


@pytest.mark.parametrize("form", range(8))
@pytest.mark.parametrize("offset", [0, 3])
def test_the_scan_finds_every_form_of_a_real_update_at_any_offset(form, offset):
    update = encrypted_run().updates[0]
    planted = list(plaintext_forms(update, STEP))[form][1000:2000]
    noise = os.urandom(10_000 + offset)
    assert updates_in([noise + planted + noise], [update], STEP)
    assert not updates_in([noise], [update], STEP)


def test_the_scan_does_not_take_everyday_bytes_for_a_secret():
    words = telling_words([bytes(1000), b"\xff" * 1000, os.urandom(1000)])
    assert not holds_a_run(bytes(1000) + b"\xff" * 1000, words)


def test_the_server_works_without_any_client():
    """The aggregator that the server gets is made of public material alone."""
    alone = build_server_side(Ckks(), 3, Material(lambda: encrypted_run().public_material[0]))
    assert not secret_holders(alone)


def test_plaintext_holds_no_key_at_all():
    side = PlaintextAggregation(FixedPointCodec(8.0, 20), 3)
    assert not secret_holders(population(side, FixedPointCodec(8.0, 20)), Context(1, 1, {}, RecordDict(), {}))
