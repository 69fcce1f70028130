"""The scan of all bytes that the server gets finds no secret, and finds planted ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from flwr.serverapp import ServerApp

from ppml.aggregation.factory import build_server_side
from ppml.aggregation.interfaces import ProtectedUpdate, SecretKeyExposed
from ppml.aggregation.lattice import LatticeServer
from ppml.config.technique import Ckks
from ppml.federation import run as run_module
from ppml.federation.messages import INITIAL, UPDATE
from ppml.federation.run import build_server_app

from ..aggregation.local import Local, Material
from .parties import CKKS, Federation, federated, parties
from .runs import Traffic, federated_arm, ignore, run, run_and_record
from .scanner import (
    holds_a_run,
    plaintext_forms,
    reachable,
    secret_coefficients,
    secret_holders,
    secret_key_in,
    secret_words,
    serialized_secret,
    updates_in,
)

STEP = 2.0**-20


@cache
def encrypted_run() -> Traffic:
    return run_and_record(federated_arm(encrypted=True))


# The secret key.


def check_server_gets_no_secret_key(traffic: Traffic) -> None:
    (side,) = traffic.sides
    assert len(traffic.messages) == 2 * (3 + 2 * (3 + 1)), (
        "in both directions: three status requests, and in each of two rounds three updates and one evaluation"
    )
    assert traffic.public_material[0]
    assert not secret_key_in(traffic.server_bytes(), side)


@pytest.mark.parametrize(
    "aggregation",
    [{"kind": "ckks"}, {"kind": "bfv"}, {"kind": "bfv", "keys": "shared"}, {"kind": "ckks", "keys": "shared"}],
    ids=str,
)
def test_server_gets_no_part_of_a_key_or_an_update(aggregation):
    traffic = run_and_record(federated_arm(aggregation=aggregation))
    check_server_gets_no_secret_key(traffic)
    check_no_update_is_readable(traffic)
    (side,) = traffic.sides
    assert secret_key_in([*traffic.server_bytes(), b"x" + serialized_secret(side)], side)


@pytest.mark.parametrize("aggregation", [{"kind": "secret_sharing"}, {"kind": "masking"}], ids=["shares", "masking"])
def test_shares_and_masked_uploads_hide_updates(aggregation):
    traffic = run_and_record(federated_arm(aggregation=aggregation))
    # Messages to clients have the sum, which the server sees.
    traffic.messages = [(direction, message) for direction, message in traffic.messages if direction == "up"]
    check_no_update_is_readable(traffic)


def leaking(how: Callable[[Local, np.ndarray], bytes]) -> Traffic:
    """Return the traffic of clients that append ``how(side, update)`` to their uploads."""

    def make_side(side: Local) -> Local:
        protect = side.protect

        def leaky(update: np.ndarray, *origin: int) -> ProtectedUpdate:
            upload = protect(update, *origin)
            return replace(upload, payload=upload.payload + how(side, update))

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
def test_key_in_an_upload_is_detected(how):
    (side,) = (traffic := leaking(lambda side, update: how(side))).sides
    uploads = [message for direction, message in traffic.messages if direction == "up" and UPDATE in message.content]
    assert len(uploads) >= 3, "the scan must see the leak before the server reads it"
    assert secret_key_in(traffic.server_bytes(), side)


def test_other_keys_are_no_finding():
    (side,) = encrypted_run().sides
    other = Local(Ckks(), 3)
    assert not secret_key_in([other.material(), os.urandom(100_000)], side)


def test_secret_key_material_stops_the_run():
    def make_side(side: Local) -> Local:
        side.material = lambda: serialized_secret(side)
        return side

    with pytest.raises(SecretKeyExposed):
        run_and_record(federated_arm(encrypted=True), make_side=make_side)
    traffic = run_and_record(federated_arm(encrypted=True), make_side=make_side, broken=True)
    assert traffic.messages == []


def check_server_app_has_no_key(build: Callable[[Federation], ServerApp]) -> None:
    parts = parties(federated(aggregation=CKKS))
    assert secret_holders(parts.pool), "the search must find the key of the clients"
    assert not secret_holders(build(parts), parts.server)


def test_server_app_has_no_reference_to_a_secret_key():
    check_server_app_has_no_key(lambda parts: build_server_app(parts.server, ignore, ignore))


def test_server_app_with_a_reference_to_clients_is_detected():
    def careless(parts: Federation) -> ServerApp:
        return build_server_app(parts.server, partial(ignore, parts.pool), ignore)

    with pytest.raises(AssertionError):
        check_server_app_has_no_key(careless)


def server_apps(monkeypatch, arm, workers: int) -> list[ServerApp]:
    """Return the server apps of a training of ``arm``."""
    built = []
    original = run_module.build_server_app

    def spied(*spec):
        built.append(original(*spec))
        return built[-1]

    monkeypatch.setattr(run_module, "build_server_app", spied)
    run(arm, workers=workers)
    return built


@pytest.mark.parametrize("workers", [1, 2])
def test_server_app_of_a_training_has_no_reference_to_a_secret_key(workers, monkeypatch):
    (app,) = server_apps(monkeypatch, federated_arm(encrypted=True, rounds=1), workers)
    assert any(isinstance(one, LatticeServer) for one in reachable(app)), (
        "the search must find the aggregator of the app"
    )
    assert not secret_holders(app)


# The updates.


def check_no_update_is_readable(traffic: Traffic, rounds: int = 2) -> None:
    assert len(traffic.updates) == 3 * rounds, "all rounds of three clients"
    assert all(np.count_nonzero(update) > 20_000 for update in traffic.updates)
    assert not updates_in(traffic.server_bytes(), traffic.updates, STEP)


def test_plaintext_updates_are_detected():
    with pytest.raises(AssertionError, match="updates_in"):
        check_no_update_is_readable(run_and_record(federated_arm()))


def test_plaintext_values_beside_a_ciphertext_are_detected():
    # The server refuses such an update, and the training ends after one round.
    traffic = leaking(lambda side, update: update[5000:5100].astype("<i4").tobytes())
    with pytest.raises(AssertionError, match="updates_in"):
        check_no_update_is_readable(traffic, rounds=1)


def test_server_reads_neither_sums_nor_models():
    traffic = encrypted_run()
    later = [
        payload
        for payload, (_, message) in zip(traffic.server_bytes()[1:], traffic.messages, strict=True)
        if INITIAL not in message.content
    ]
    sums = [np.sum(traffic.updates[:3], axis=0), np.sum(traffic.updates[3:], axis=0)]
    assert not updates_in(later, sums, STEP)


@pytest.mark.parametrize("form", range(8))
@pytest.mark.parametrize("offset", [0, 3])
def test_scan_finds_every_encoding_of_an_update(form, offset):
    update = encrypted_run().updates[0]
    planted = list(plaintext_forms(update, STEP))[form][1000:2000]
    noise = os.urandom(10_000 + offset)
    assert updates_in([noise + planted + noise], [update], STEP)
    assert not updates_in([noise], [update], STEP)


def test_scan_ignores_common_bytes():
    words = secret_words([bytes(1000), b"\xff" * 1000, os.urandom(1000)])
    assert not holds_a_run(bytes(1000) + b"\xff" * 1000, words)


def test_aggregator_needs_public_material_only():
    """The aggregator of the server needs only public material."""
    aggregator = build_server_side(Ckks(), 3, Material(lambda: encrypted_run().public_material[0]))
    assert not secret_holders(aggregator)


def test_plaintext_aggregation_has_no_key():
    assert not secret_holders(parties(federated()))
