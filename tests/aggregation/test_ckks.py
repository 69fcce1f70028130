"""CKKS: the same sums as in the clear, and a server that cannot open them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import tenseal as ts
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.aggregation.build import build_client_side, build_server_side
from ppml.aggregation.ckks import CkksClients, CkksServer, _pack, _unpack
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation.protocol import BadUpdate, Sealed, SecretKeyExposed
from ppml.config.technique import Ckks, Plaintext

SPEC = Ckks()
CODEC = FixedPointCodec(SPEC.clip, SPEC.fractional_bits)


@cache
def pair() -> tuple[CkksClients, CkksServer]:
    side = CkksClients(SPEC)
    return side, CkksServer(side.public_material())


@pytest.fixture
def clients() -> CkksClients:
    return pair()[0]


@pytest.fixture
def server() -> CkksServer:
    return pair()[1]


def some_updates(count: int, length: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng(count)
    match kind:
        case "random":
            return rng.normal(0, 0.1, (count, length))
        case "at the bound":
            return rng.choice([-SPEC.clip, SPEC.clip], (count, length))
        case "all at the bound":
            return np.full((count, length), SPEC.clip)
        case _:
            # As large as they get: what is outside is clipped.
            return rng.normal(0, 1e4, (count, length))


# The same bits.


def check_same_sum_as_in_the_clear(clients: CkksClients, server: CkksServer, updates: np.ndarray) -> None:
    clear = PlaintextAggregation(CODEC, len(updates))
    sums = [
        side.unseal(adds.add([side.seal(CODEC.encode(update)) for update in updates]))
        for side, adds in ((clear, clear), (clients, server))
    ]
    assert sums[0].dtype == sums[1].dtype == np.int64
    assert np.array_equal(*sums)


@pytest.mark.parametrize("count", [1, 2, 8, 32])
@pytest.mark.parametrize("kind", ["random", "at the bound", "all at the bound", "outside"])
def test_encrypted_sums_are_those_in_the_clear_bit_for_bit(clients, server, count, kind):
    check_same_sum_as_in_the_clear(clients, server, some_updates(count, 2500, kind))


@given(updates=st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=4).map(np.array))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_encrypted_sums_of_any_updates_are_those_in_the_clear(updates):
    check_same_sum_as_in_the_clear(*pair(), updates)


@pytest.mark.parametrize("length", [1, 2047, 2048, 2049, 4096])
def test_every_length_fills_its_ciphertexts(clients, server, length):
    check_same_sum_as_in_the_clear(clients, server, some_updates(2, length, "random"))
    assert len(list(_unpack(clients.seal(np.zeros(length, np.int64)).payload))) == -(-length // 2048)


class OffByRounding(CkksClients):
    """Cuts decrypted values off instead of rounding them to the grid."""

    def unseal(self, total):
        parts = [ts.ckks_vector_from(self._context, chunk).decrypt() for chunk in _unpack(total.payload)]
        return np.floor(np.concatenate(parts) / self._codec.step).astype(np.int64)


class LeavesOneOut(CkksServer):
    """Forgets the last client."""

    def add(self, sealed):
        return super().add(sealed[:-1])


def test_a_sum_without_rounding_to_the_grid_or_without_a_client_is_caught():
    unrounded, side = OffByRounding(SPEC), CkksClients(SPEC)
    for clients, server in (
        (unrounded, CkksServer(unrounded.public_material())),
        (side, LeavesOneOut(side.public_material())),
    ):
        with pytest.raises(AssertionError):
            check_same_sum_as_in_the_clear(clients, server, some_updates(2, 500, "random"))


def test_updates_of_different_length_do_not_add(clients, server):
    with pytest.raises(ValueError):
        server.add([clients.seal(np.zeros(2048, np.int64)), clients.seal(np.zeros(2049, np.int64))])


# Payloads that cannot be added.


@pytest.mark.parametrize("length", [1, 2048, 2049])
def test_what_a_client_seals_passes_the_check(clients, server, length):
    server.check(clients.seal(np.zeros(length, np.int64)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda payload: payload[:-1],
            "no ciphertexts under the parameters of this run: the payload is cut off within a ciphertext",
        ),
        (
            lambda payload: payload + b"xyz",
            "no ciphertexts under the parameters of this run: the payload is cut off within a length",
        ),
        (lambda payload: b"", "ciphertexts of [] values where [2048, 1] are needed"),
        (
            lambda payload: _pack(iter([*_unpack(payload)][:1])),
            "ciphertexts of [2048] values where [2048, 1] are needed",
        ),
        (
            lambda payload: payload + _pack(iter([b"more"])),
            "no ciphertexts under the parameters of this run: failed to parse CKKS stream",
        ),
    ],
    ids=["cut off", "a few bytes more", "nothing", "one too few", "one too many"],
)
def test_a_payload_of_another_shape_is_refused_before_it_is_added(clients, server, change, why):
    sealed = clients.seal(np.zeros(2049, np.int64))
    with pytest.raises(BadUpdate, match=f"^{re.escape(why)}$"):
        server.check(Sealed(sealed.scheme, sealed.length, change(sealed.payload)))


def test_a_server_of_a_larger_ring_needs_fewer_ciphertexts():
    spec = Ckks(poly_modulus_degree=8192)
    side = build_client_side(spec, 2)
    server = build_server_side(spec, 2, side.public_material())
    server.check(side.seal(np.zeros(4096, np.int64)))
    with pytest.raises(BadUpdate, match=r"ciphertexts of \[4096\] values where \[2048, 2048\] are needed"):
        CkksServer(side.public_material(), 2048).check(side.seal(np.zeros(4096, np.int64)))


# Keys.


def private_material(side: CkksClients) -> bytes:
    return bytes(side._context.serialize(save_secret_key=True))


def check_material_is_public(material: bytes) -> None:
    context = ts.context_from(material)
    assert context.is_public()
    assert not context.has_secret_key()
    assert not context.is_private()


def test_public_material_has_no_secret_key(clients):
    check_material_is_public(clients.public_material())


def test_private_material_is_caught(clients):
    with pytest.raises(AssertionError):
        check_material_is_public(private_material(clients))


def test_the_server_refuses_a_secret_key(clients):
    with pytest.raises(SecretKeyExposed, match="secret key"):
        CkksServer(private_material(clients))


def test_the_server_cannot_open_an_update_or_a_sum(clients, server):
    sealed = clients.seal(np.arange(10))
    for one in (sealed, server.add([sealed, sealed])):
        for chunk in _unpack(one.payload):
            with pytest.raises(ValueError, match=r"secret[_ ]key"):
                ts.ckks_vector_from(server._context, chunk).decrypt()


def check_keys_are_fresh(make: Callable[[], CkksClients]) -> None:
    made = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  the point is that it does not matter
        torch.manual_seed(0)
        made.append(make())
    first, second = made
    assert first.public_material() != second.public_material()
    assert private_material(first) != private_material(second)
    # What one seals, the other reads as noise.
    update = CODEC.encode(np.linspace(-1, 1, 500))
    foreign = second.unseal(first.seal(update))
    assert (foreign == update).mean() < 0.01


def test_each_run_has_keys_of_its_own_whatever_the_seeds():
    check_keys_are_fresh(lambda: CkksClients(SPEC))


def test_a_key_that_repeats_is_caught(clients):
    with pytest.raises(AssertionError):
        check_keys_are_fresh(lambda: clients)


def test_sealing_twice_gives_different_ciphertexts_of_the_same_update(clients):
    update = CODEC.encode(np.linspace(-1, 1, 500))
    torch.manual_seed(0)
    first = clients.seal(update)
    torch.manual_seed(0)
    second = clients.seal(update)
    assert first.payload != second.payload
    assert np.array_equal(clients.unseal(first), clients.unseal(second))


def test_clients_of_different_keys_get_no_sum(clients, server):
    update = CODEC.encode(np.linspace(-1, 1, 500))
    mixed = server.add([clients.seal(update), CkksClients(SPEC).seal(update)])
    assert (clients.unseal(mixed) == 2 * update).mean() < 0.01


# From the configuration.


@pytest.mark.parametrize("spec", [Plaintext(), Ckks()], ids=["plaintext", "ckks"])
def test_a_configured_aggregation_adds(spec):
    side = build_client_side(spec, 3)
    server = build_server_side(spec, 3, side.public_material())
    sealed = [side.seal(np.array([1, -2, 3])) for _ in range(3)]
    assert isinstance(server.add(sealed), Sealed)
    assert {one.scheme for one in sealed} == {spec.kind}
    assert side.unseal(server.add(sealed)).tolist() == [3, -6, 9]


def test_the_server_side_of_ckks_refuses_a_secret_key_however_it_is_built(clients):
    with pytest.raises(SecretKeyExposed):
        build_server_side(SPEC, 2, private_material(clients))
