"""CKKS and BFV: the sums equal plaintext sums, and the server cannot decrypt them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from ppml.aggregation.ckks import CkksEncoding
from ppml.aggregation.envelope import fingerprint, header_of
from ppml.aggregation.factory import build_parties, build_server_side
from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import ProtectedUpdate, SecretKeyExposed
from ppml.aggregation.lattice import (
    LatticeServer,
    PublicKeyClients,
    deserialize,
    seal_context,
    serialize,
)
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.config.technique import Ckks, Encrypted, Plaintext
from ppml.errors import InvalidUpdate

from ..federation.scanner import secret_holders
from .local import SPECS, Local, Material

CODEC = FixedPointCodec(8.0, 20)
MOST = 32
"""Clients that the keys of these tests are made for."""


@cache
def pair(name: str) -> tuple[Local, LatticeServer]:
    local = Local(SPECS[name], MOST)
    return local, local.server()


@pytest.fixture(params=SPECS)
def name(request) -> str:
    return request.param


@pytest.fixture
def clients(name: str) -> Local:
    return pair(name)[0]


@pytest.fixture
def server(name: str) -> LatticeServer:
    return pair(name)[1]


def a_ciphertext(side: Local) -> int:
    """Return the number of values per ciphertext."""
    return side.scheme.encoding.values


def some_updates(count: int, length: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng(count)
    match kind:
        case "random":
            return rng.normal(0, 0.1, (count, length))
        case "at the bound":
            return rng.choice([-CODEC.clip, CODEC.clip], (count, length))
        case "all at the bound":
            return np.full((count, length), CODEC.clip)
        case _:
            # The largest values: larger ones are clipped.
            return rng.normal(0, 1e4, (count, length))


# Exact sums.


def check_same_sum_as_in_the_clear(clients: Local, server: LatticeServer, updates: np.ndarray) -> None:
    clear = PlaintextAggregation(CODEC, len(updates))
    sums = [
        side.reveal(adds.add([side.protect(CODEC.encode(update)) for update in updates]))
        for side, adds in ((clear, clear), (clients, server))
    ]
    assert sums[0].dtype == sums[1].dtype == np.int64
    assert np.array_equal(*sums)


@pytest.mark.parametrize("count", [1, 2, 8, MOST])
@pytest.mark.parametrize("kind", ["random", "at the bound", "all at the bound", "outside"])
def test_encrypted_sums_equal_plaintext_sums(clients, server, count, kind):
    check_same_sum_as_in_the_clear(clients, server, some_updates(count, 5000, kind))


@given(updates=st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=4).map(np.array))
@settings(max_examples=25, deadline=None, derandomize=True)
@pytest.mark.parametrize("scheme", SPECS)
def test_encrypted_sums_of_random_updates_equal_plaintext_sums(scheme, updates):
    check_same_sum_as_in_the_clear(*pair(scheme), updates)


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("full", [0, 1, 2])
def test_ciphertext_count_follows_length(clients, server, full, more):
    length = max(1, full * a_ciphertext(clients) + more)
    check_same_sum_as_in_the_clear(clients, server, some_updates(2, length, "random"))
    needed = -(-length // a_ciphertext(clients))
    honest = clients.protect(np.zeros(length, np.int64))
    assert len(chunks_of(clients, honest)) == needed
    server.check(honest)


class OffByRounding(CkksEncoding):
    """A key holder that truncates decrypted values instead of rounding them to the grid."""

    def decode(self, plain: sealapi.Plaintext) -> Grid:
        slots = np.array(self._encoder.decode_complex(plain))
        return np.floor(np.concatenate([slots.real, slots.imag]) / CODEC.step).astype(np.int64)


class LeavesOneOut(LatticeServer):
    """A server that omits the last client."""

    def add(self, sealed):
        return super().add(sealed[:-1])


def test_wrong_sum_is_detected(monkeypatch):
    sound, adds = pair("ckks public")
    with pytest.raises(AssertionError):
        check_same_sum_as_in_the_clear(
            sound, LeavesOneOut(sound.scheme, sound.material), some_updates(2, 500, "random")
        )
    monkeypatch.setattr(CkksEncoding, "decode", OffByRounding.decode)
    with pytest.raises(AssertionError):
        check_same_sum_as_in_the_clear(sound, adds, some_updates(2, 500, "random"))


def test_updates_of_different_lengths_do_not_add(clients, server):
    full = a_ciphertext(clients)
    with pytest.raises(ValueError):
        server.add([clients.protect(np.zeros(full, np.int64)), clients.protect(np.zeros(full + 1, np.int64))])


# Sizes.


def test_upload_sizes_are_as_documented():
    length = 200_000
    update = CODEC.encode(some_updates(1, length, "random")[0])
    sizes = {name: len(pair(name)[0].protect(update).payload) / (4 * length) for name in SPECS}
    assert sizes["ckks public"] < 4.0 and sizes["bfv public"] < 3.6
    assert sizes["ckks shared"] < 2.0 and sizes["bfv shared"] < 1.7


def test_sum_of_seeded_ciphertexts_has_full_size():
    clients, server = pair("ckks shared")
    sealed = clients.protect(np.zeros(4096, np.int64))
    assert len(server.add([sealed, sealed]).payload) > 1.9 * len(sealed.payload)


# Payloads that cannot be added.


def resealed(side: Local, sealed: ProtectedUpdate, change: Callable[[list[bytes]], Iterable[bytes]]) -> ProtectedUpdate:
    """Return an update with changed ciphertexts and a valid checksum."""
    chunks = change(chunks_of(side, sealed))
    return side.scheme.pack(side.fingerprint, sealed.length, chunks, header_of(0, 0))


def chunks_of(side: Local, sealed: ProtectedUpdate) -> list[bytes]:
    return [bytes(chunk) for chunk in side.scheme.ciphertexts(sealed, side.fingerprint)]


DAMAGES = {
    "cut off": lambda payload: payload[:-1],
    "cut off early": lambda payload: payload[:20],
    "nothing": lambda payload: b"",
    "a few bytes more": lambda payload: payload + b"xyz",
    "another key": lambda payload: b"0" * 16 + payload[16:],
    **{
        f"a bit at {part:.0%}": lambda payload, part=part: (
            payload[: int(part * len(payload))]
            + bytes([payload[int(part * len(payload))] ^ 1])
            + payload[int(part * len(payload)) + 1 :]
        )
        for part in (0.0, 0.1, 0.5, 0.9)
    },
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_payload_is_refused(clients, server, damage):
    sealed = clients.protect(np.zeros(a_ciphertext(clients) + 1, np.int64))
    damaged = ProtectedUpdate(sealed.scheme, sealed.length, damage(sealed.payload))
    for refuses in (server.check, lambda one: server.add([one, one]), clients.reveal):
        with pytest.raises(InvalidUpdate, match="truncated or altered"):
            refuses(damaged)


def test_wrong_payload_length_is_refused(clients, server):
    sealed = clients.protect(np.zeros(10, np.int64))
    with pytest.raises(InvalidUpdate, match="truncated or altered"):
        server.check(ProtectedUpdate(sealed.scheme, 11, sealed.payload))


FAULTS = {
    "one too few": (lambda chunks: chunks[:1], "1 ciphertexts, expected 2"),
    "one too many": (
        lambda chunks: [*chunks, chunks[0]],
        # Three ciphertexts with seeds are not too long.
        r"3 ciphertexts, expected 2|\d+ bytes for \d+ values, which take \d+ at most",
    ),
    "none": (lambda chunks: [], "0 ciphertexts, expected 2"),
    "something else": (lambda chunks: [chunks[0], b"more"], "another length than its header says"),
    "cut off": (lambda chunks: [chunk[:-9] for chunk in chunks], "another length than its header says"),
    "words after it": (lambda chunks: [chunk + b"more" for chunk in chunks], "another length than its header says"),
    "another version": (
        lambda chunks: [chunk[:3] + b"\x09" + chunk[4:] for chunk in chunks],
        "not of this SEAL version",
    ),
}


@pytest.mark.parametrize(("change", "why"), FAULTS.values(), ids=FAULTS)
def test_invalid_ciphertexts_are_refused(clients, server, change, why):
    sealed = clients.protect(np.zeros(a_ciphertext(clients) + 1, np.int64))
    with pytest.raises(InvalidUpdate, match=why):
        server.check(resealed(clients, sealed, change))


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"xyz", "within a length"), (b"\x09\x00\x00\x00xyz", "within a ciphertext")],
)
def test_inconsistent_ciphertext_lengths_are_refused(clients, server, content, why):
    mark = fingerprint(clients.fingerprint + (10).to_bytes(4, "little") + header_of(0, 0) + content)
    with pytest.raises(InvalidUpdate, match=f"the payload is truncated {why}"):
        server.check(ProtectedUpdate(clients.scheme.name, 10, clients.fingerprint + mark + header_of(0, 0) + content))


def test_update_names_its_client_and_round(clients, server):
    sealed = clients.protect(np.zeros(10, np.int64), 3, 7)
    server.check(sealed, 3, 7)
    for turn, why in (((4, 7), "of client 3"), ((3, 8), "of round 7")):
        with pytest.raises(InvalidUpdate, match=why):
            server.check(sealed, *turn)
    with pytest.raises(InvalidUpdate, match="a sum, not an update"):
        server.check(server.add([sealed, sealed]), 3, 7)


def test_ciphertext_of_other_key_is_refused(name, clients, server):
    foreign = Local(SPECS[name], MOST).protect(np.zeros(1, np.int64))
    for refuses in (server.check, clients.reveal):
        with pytest.raises(InvalidUpdate, match="under another key"):
            refuses(foreign)


def under(side: Local, foreign: Local, values: int) -> ProtectedUpdate:
    """Return an update of another ring or key that claims the key of ``side``."""
    chunks = chunks_of(foreign, foreign.protect(np.zeros(values, np.int64)))
    return side.scheme.pack(side.fingerprint, values, chunks, header_of(0, 0))


def test_ciphertext_of_other_ring_is_refused(clients, server, name):
    spec = SPECS[name]
    larger = {"poly_modulus_degree": 8192} if spec.kind == "ckks" else {"clip": 64.0}
    foreign = Local(type(spec)(keys=spec.keys, **larger), MOST)
    with pytest.raises(InvalidUpdate, match=r"no ciphertext of this ring|which take \d+ at most"):
        server.check(under(clients, foreign, 1))


def test_ciphertext_at_other_scale_is_refused():
    clients, server = pair("ckks public")
    foreign = Local(Ckks(scale_bits=41), MOST)
    with pytest.raises(InvalidUpdate, match=r"a ciphertext at scale 2\.19902e\+12, not 1\.09951e\+12"):
        server.check(under(clients, foreign, 1))


def test_product_is_not_a_fresh_ciphertext():
    clients, server = pair("bfv public")
    sealed = clients.protect(np.ones(10, np.int64))
    (chunk,) = chunks_of(clients, sealed)
    cipher = deserialize(sealapi.Ciphertext(), clients.scheme.context, chunk)
    sealapi.Evaluator(clients.scheme.context).square_inplace(cipher)
    with pytest.raises(InvalidUpdate, match=r"\d+ bytes for 10 values, which take \d+ at most"):
        server.check(resealed(clients, sealed, lambda chunks: [serialize(cipher)]))
    with pytest.raises(InvalidUpdate, match="not fresh"):
        clients.scheme.format.uncompressed(serialize(cipher))


def test_other_scheme_is_refused():
    with pytest.raises(InvalidUpdate, match="protected by 'bfv', not by 'ckks'"):
        pair("ckks public")[1].check(pair("bfv public")[0].protect(np.zeros(1, np.int64)))


# Keys.


PRIVATE = {
    "a secret key": lambda side: side.keys.secret(),
    "a secret key after the public one": lambda side: side.material() + side.keys.secret(),
    "words after the public key": lambda side: side.material() + b"12345678",
    "half a public key": lambda side: side.material()[:10_000],
    "nothing": lambda side: b"",
}


@pytest.mark.parametrize("material", PRIVATE.values(), ids=PRIVATE)
def test_server_accepts_only_public_key(name, clients, material):
    secret = material is PRIVATE["a secret key"]
    with pytest.raises(SecretKeyExposed, match="contains a secret key" if secret else "is no public key"):
        build_server_side(SPECS[name], MOST, Material(lambda: material(clients)))


def check_keys_are_fresh(make: Callable[[], Local]) -> None:
    made = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  the point is that it does not matter
        torch.manual_seed(0)
        made.append(make())
    first, second = made
    assert first.material() != second.material()
    assert first.keys.secret() != second.keys.secret()
    # One client's ciphertext decrypts to noise under another key.
    update = CODEC.encode(np.linspace(-1, 1, 500))
    foreign = second.reveal(
        resealed(second, second.protect(update), lambda chunks: chunks_of(first, first.protect(update)))
    )
    assert (foreign == update).mean() < 0.01


def test_each_run_has_own_keys(name):
    check_keys_are_fresh(lambda: Local(SPECS[name], MOST))


def test_repeated_key_is_detected(clients):
    with pytest.raises(AssertionError):
        check_keys_are_fresh(lambda: clients)


def test_encryption_is_randomized(clients):
    update = CODEC.encode(np.linspace(-1, 1, 500))
    torch.manual_seed(0)
    first = clients.protect(update)
    torch.manual_seed(0)
    second = clients.protect(update)
    assert first.payload != second.payload
    assert np.array_equal(clients.reveal(first), clients.reveal(second))


def test_clients_with_different_keys_get_no_sum(name, clients, server):
    update = CODEC.encode(np.linspace(-1, 1, 500))
    other = Local(SPECS[name], MOST)
    theirs = resealed(clients, clients.protect(update), lambda chunks: chunks_of(other, other.protect(update)))
    mixed = server.add([clients.protect(update), theirs])
    assert (clients.reveal(mixed) == 2 * update).mean() < 0.01


def test_colluder_decrypts_updates_under_shared_key_only():
    """A client's memory and another client's upload suffice under a shared key, and not under a public one."""
    update = CODEC.encode(np.linspace(-1, 1, 500))
    for name in SPECS:
        local, _ = pair(name)
        upload = local.protect(update)
        # The client's part, without the holder, which is in this process only in these tests.
        colluder = local.side
        if local.spec.keys == "shared":
            assert np.array_equal(colluder.reveal(upload), update)
        else:
            colluder = PublicKeyClients(local.scheme, NoHolder(local.material()))
            colluder.protect(update)
            assert not secret_holders(colluder)
            with pytest.raises(LookupError):
                colluder.reveal(upload)


@dataclass(frozen=True)
class NoHolder:
    """A key holder that does not take part in the attack."""

    key: bytes

    def public(self) -> bytes:
        return self.key

    def decrypt(self, total: ProtectedUpdate) -> Grid:
        raise LookupError("no secret key here")


# The ring.


def test_seal_refuses_ring_below_128_bits():
    with pytest.raises(ValueError, match="secure"):
        seal_context(sealapi.SCHEME_TYPE.BFV, 2048, [55], 30)


# Configured aggregations.


@pytest.mark.parametrize("spec", [Plaintext(), *SPECS.values()], ids=["plaintext", *SPECS])
def test_each_configured_aggregation_adds(spec: Plaintext | Encrypted):
    parties = build_parties(spec, 3)
    server = build_server_side(spec, 3, parties.material)
    sealed = [parties.clients.protect(np.array([1, -2, 3])) for _ in range(3)]
    assert {one.scheme for one in sealed} == {spec.kind}
    assert parties.clients.reveal(server.add(sealed)).tolist() == [3, -6, 9]
    parties.close()
