"""Additive secret sharing: exact sums, no information without all servers, and no fabricated clients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing import active_children

import numpy as np
import pytest

from ppml.aggregation.envelope import FINGERPRINT_BYTES, HEADER_BYTES, header_of, make_envelope, verified_payload
from ppml.aggregation.factory import build_parties, build_server_side
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.group import base_multiple, random_scalar
from ppml.aggregation.hpke import encrypt_hybrid
from ppml.aggregation.identities import REGISTER, SIGNATURE_BYTES, ClientSigners, registration_request
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation.primitives import integer_width, prg
from ppml.aggregation.secret_sharing import (
    CHECK,
    ENCRYPTED_SEED_BYTES,
    PUBLIC_KEY,
    SEED_BYTES,
    SUM,
    SeedContext,
    ShareServer,
    SharingClients,
    SharingServer,
    seed_request,
)
from ppml.aggregation_parameters import max_grid_value
from ppml.config.technique import SecretSharing
from ppml.errors import InvalidUpdate

CODEC = FixedPointCodec(8.0, 20)
LARGEST = max_grid_value(8.0, 20)


class Local:
    """All servers in one process, with keys that tests can read."""

    def __init__(self, servers: int = 3, width: int = 4) -> None:
        self.share_servers = [ShareServer() for _ in range(servers - 1)]
        self.clients = SharingClients([share_server.answer for share_server in self.share_servers], width)
        self.server = SharingServer([share_server.answer for share_server in self.share_servers], width)

    def protect_all(self, values: Sequence[np.ndarray], number: int = 1) -> list[ProtectedUpdate]:
        return [self.clients.protect(value, client, number) for client, value in enumerate(values)]


def updates(count: int, length: int, clip: float = 8.0) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    codec = FixedPointCodec(clip, 20)
    values = [codec.encode(rng.normal(0, 3, length)) for _ in range(count)]
    values[0][:] = codec.encode(np.array([clip]))[0]
    values[1][:] = codec.encode(np.array([-clip]))[0]
    return values


# Exact sums.


@pytest.mark.parametrize("servers", [2, 3, 5])
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("length", [1, 1000])
def test_sums_equal_plaintext_sums(servers, width, length):
    local, values = Local(servers, width), updates(8, length)
    clear = PlaintextAggregation(CODEC, 8)
    sealed = local.protect_all(values)
    for client, one in enumerate(sealed):
        local.server.check(one, client, 1)
    found = local.clients.reveal(local.server.add(sealed))
    assert found.dtype == np.int64
    assert np.array_equal(found, clear.reveal(clear.add([clear.protect(value) for value in values])))


def test_sum_with_dropouts_is_sum_of_others():
    local, values = Local(), updates(8, 100)
    sealed = local.protect_all(values)
    total = local.server.add([sealed[client] for client in (0, 1, 3, 4, 6, 7)])
    assert np.array_equal(local.clients.reveal(total), sum(values[client] for client in (0, 1, 3, 4, 6, 7)))


def sum_of(clients: int, width: int, update: np.ndarray) -> list[int]:
    """Return the sum of ``clients`` equal updates; each upload represents several of them."""
    uploads = next(count for count in range(16, 1, -1) if clients % count == 0)
    local = Local(width=width)
    total = local.server.add(local.protect_all([clients // uploads * update] * uploads))
    return [int(value) for value in local.clients.reveal(total)]


@pytest.mark.parametrize("clients", [2, 255, 256])
def test_values_have_width_of_largest_sum(clients):
    width = integer_width(clients, SecretSharing())
    assert width == (4 if clients < 256 else 8)
    assert sum_of(clients, width, np.array([LARGEST, -LARGEST])) == [clients * LARGEST, -clients * LARGEST]


def test_one_client_too_many_overflows():
    """4 bytes hold 255 clients of the default grid; the sum of 256 clients at the bound overflows."""
    assert [sum_of(clients, 4, np.array([LARGEST])) for clients in (255, 256)] == [[255 * 2**23], [-(2**31)]]


def test_upload_has_1232_bytes_per_share_server():
    """32 bytes of seed, 1,120 of ML-KEM-768 and X25519, 16 of tag, and 64 of signature."""
    sealed = Local().clients.protect(np.zeros(1000, np.int64))
    assert len(sealed.payload) == 4000 + 2 * 1232 + FINGERPRINT_BYTES + HEADER_BYTES and ENCRYPTED_SEED_BYTES == 1232


# Visibility.


def test_all_shares_but_one_are_uniform():
    """All shares but one are uniform for every update."""
    length = 100_000
    for update in (np.zeros(length, np.int64), np.full(length, 2**23)):
        local = Local()
        sealed = local.clients.protect(update)
        seeds, left = parts(sealed)
        opened = [
            decrypt_seed(share_server, seed, SeedContext(length, 4, 0))
            for share_server, seed in zip(local.share_servers, seeds, strict=True)
        ]
        streams = [prg(seed, length, 4) for seed in opened]
        # All shares add up to the update; those of two servers do not.
        whole = np.frombuffer(left, "<u4") + streams[0] + streams[1]
        assert np.array_equal(whole.view("<i4"), update)
        for known in (
            np.frombuffer(left, "<u4"),
            np.frombuffer(left, "<u4") + streams[0],
            np.frombuffer(left, "<u4") + streams[1],
            streams[0] + streams[1],
        ):
            check_uniform(known)


def check_uniform(values: np.ndarray) -> None:
    """Chi-squared over the first and the last byte: 255 degrees of freedom, mean 255, deviation 22.6."""
    for byte in (0, 3):
        counts = np.bincount(values.astype("<u4").view(np.uint8)[byte::4], minlength=256)
        expected = len(values) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * 22.6


def test_missing_stream_is_detected():
    update = np.full(100_000, 2**23)
    with pytest.raises(AssertionError):
        check_uniform(update.astype("<u4"))


def parts(sealed: ProtectedUpdate, share_servers: int = 2) -> tuple[list[bytes], bytes]:
    content = verified_payload(sealed)
    ends = share_servers * ENCRYPTED_SEED_BYTES
    return [content[start : start + ENCRYPTED_SEED_BYTES] for start in range(0, ends, ENCRYPTED_SEED_BYTES)], content[
        ends:
    ]


def decrypt_seed(share_server: ShareServer, seed: bytes, context: SeedContext, client: int = 0) -> bytes:
    return share_server._decrypt_seed(context, client, seed)


@pytest.mark.parametrize(
    ("share_server", "context", "client", "why"),
    [
        (1, SeedContext(7, 4, 3), 0, "cannot decrypt its seed"),
        (0, SeedContext(8, 4, 3), 0, "not signed by client 0"),
        (0, SeedContext(7, 8, 3), 0, "not signed by client 0"),
        (0, SeedContext(7, 4, 4), 0, "not signed by client 0"),
        (0, SeedContext(7, 4, 3), 1, "not signed by client 1"),
        (0, SeedContext(7, 4, 3), 2, "no key is registered for client 2"),
    ],
    ids=["another server", "length", "width", "round", "client", "stranger"],
)
def test_seed_is_for_one_server_and_update(share_server, context, client, why):
    local = Local()
    first, _ = (local.clients.protect(np.zeros(7, np.int64), client, 3) for client in range(2))
    seeds, _ = parts(first)
    assert len(decrypt_seed(local.share_servers[0], seeds[0], SeedContext(7, 4, 3))) == SEED_BYTES
    with pytest.raises(InvalidUpdate, match=why):
        decrypt_seed(local.share_servers[share_server], seeds[0], context, client)


# Fabricated clients.


def made_up(share_server: ShareServer, seed: bytes, context: SeedContext, client: int, signer: ClientSigners) -> bytes:
    """Return a seed with a signature of the aggregating server."""
    bound = context.of(client)
    message = encrypt_hybrid(seed, share_server.answer(PUBLIC_KEY, b""), bound)
    return message + signer.sign(client, bound + message)


def opened_beside_one_made_up(local: Local, update: np.ndarray, client: int = 99, registered: bool = False) -> bool:
    """Return whether the server reveals an update by a sum with a fabricated client."""
    victim, context = local.clients.protect(update, 0, 1), SeedContext(len(update), 4, 1)
    seeds, values = parts(victim)
    left = np.frombuffer(values, "<u4").copy()
    for share_server, seed in zip(local.share_servers, seeds, strict=True):
        own = os.urandom(SEED_BYTES)
        # The server's connection refuses registrations; a connection that accepts them is the planted fault.
        register = share_server._register.register if registered else lambda client, public: None
        fake = made_up(share_server, own, context, client, ClientSigners(register))
        given = share_server.answer(SUM, seed_request(context, [(0, seed), (client, fake)]))
        left += np.frombuffer(given, "<u4") - prg(own, len(update), 4)
    return np.array_equal(left.view("<i4"), update)


def test_share_server_refuses_fabricated_client():
    local = Local()
    with pytest.raises(InvalidUpdate, match="no key is registered for client 99"):
        opened_beside_one_made_up(local, np.arange(-500, 500))
    # A registration in place of an existing client is refused, too.
    local.clients.protect(np.zeros(1000, np.int64), 1, 1)
    with pytest.raises(InvalidUpdate, match="not signed by client 1"):
        opened_beside_one_made_up(local, np.arange(-500, 500), client=1)


def test_server_that_registers_clients_reveals_update():
    """The fault behind the neighbouring tests: a server with a registered key subtracts its own share."""
    assert opened_beside_one_made_up(Local(), np.arange(-500, 500), registered=True)


def test_aggregating_server_cannot_register_client():
    made = build_parties(SecretSharing(), 3)
    for line in made.material.connections:
        with pytest.raises(InvalidUpdate, match="gives no answer to that"):
            line.ask(REGISTER, registration_request(99, bytes(32)))
    made.close()


def test_client_is_registered_once():
    share_server, (key, other) = ShareServer(), (base_multiple(random_scalar()) for _ in range(2))
    share_server.answer(REGISTER, registration_request(3, key))
    share_server.answer(REGISTER, registration_request(3, key))
    with pytest.raises(InvalidUpdate, match="another key is registered for client 3"):
        share_server.answer(REGISTER, registration_request(3, other))
    # The last key has a small order: one signature is valid for every message under it.
    bad = b"short", b"long" * 20, bytes(32), (1).to_bytes(32, "little")
    for content in (b"", b"abc", *(registration_request(4, key) for key in bad)):
        with pytest.raises(InvalidUpdate):
            share_server.answer(REGISTER, content)


def test_seed_is_refused_in_other_round():
    """Otherwise a server could reuse a client's upload in another round."""
    local = Local()
    early, late = local.protect_all([np.arange(5)] * 3, 1), local.protect_all([np.arange(5)] * 3, 2)
    with pytest.raises(InvalidUpdate, match="not signed by client 1"):
        local.server.add([early[0], late[1]])
    local.server.add(late)
    with pytest.raises(InvalidUpdate, match="sum of round 2 and returns none of round 1"):
        local.server.add(early)


def test_client_is_in_sum_once():
    local = Local()
    first, second = (local.clients.protect(np.arange(5), 0, 1) for _ in range(2))
    with pytest.raises(InvalidUpdate, match="names a client twice"):
        local.server.add([first, second])


def test_seeds_and_keys_are_from_os_entropy():
    np.random.seed(0)  # noqa: NPY002  the point is that it does not matter
    first = Local().clients.protect(np.zeros(10, np.int64))
    np.random.seed(0)  # noqa: NPY002
    second = Local().clients.protect(np.zeros(10, np.int64))
    assert first.payload != second.payload
    local = Local()
    assert len({local.clients.protect(np.zeros(10, np.int64)).payload for _ in range(5)}) == 5


def test_share_server_returns_one_sum_per_round():
    local = Local()
    sealed = local.protect_all([np.arange(5)] * 3)
    with pytest.raises(InvalidUpdate, match="fewer than 2 updates would reveal one"):
        local.server.add(sealed[:1])
    assert local.clients.reveal(local.server.add(sealed)).tolist() == (3 * np.arange(5)).tolist()
    # Two sums that differ in one client would reveal its update.
    with pytest.raises(InvalidUpdate, match="difference of two sums"):
        local.server.add(sealed[:2])


def test_two_sums_per_round_reveal_update():
    local = Local()
    values = updates(3, 50)
    sealed, sums = local.protect_all(values), []
    for count in (3, 2):
        for share_server in local.share_servers:
            share_server._last = -1
        sums.append(local.clients.reveal(local.server.add(sealed[:count])))
    assert np.array_equal(sums[0] - sums[1], values[2]), "the server learns the update of the third client"


def test_server_with_colluding_client_reveals_update():
    """The threat statement: the server requests a sum of two updates, and one of the two clients knows its own."""
    local, values = Local(), updates(2, 50)
    total = local.clients.reveal(local.server.add(local.protect_all(values)))
    assert np.array_equal(total - values[1], values[0])


# Bad uploads.

DAMAGES = {
    "cut off": lambda payload: payload[:-1],
    "nothing": lambda payload: b"",
    "longer": lambda payload: payload + b"xyz",
    "a bit": lambda payload: payload[:-3] + bytes([payload[-3] ^ 1]) + payload[-2:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_payload_is_refused(damage):
    local = Local()
    sealed = local.clients.protect(np.zeros(10, np.int64))
    with pytest.raises(InvalidUpdate, match="truncated or altered"):
        local.server.check(ProtectedUpdate(sealed.scheme, sealed.length, damage(sealed.payload)))


FAULTS = {
    "too few values": (lambda content: content[:-4], "36 bytes for 10 values of 4 bytes each"),
    "too many values": (lambda content: content + bytes(4), "44 bytes for 10 values of 4 bytes each"),
    "another seed": (lambda content: bytes(32) + content[32:], "not signed by client 0"),
    "another signature": (
        lambda content: (
            content[: ENCRYPTED_SEED_BYTES - SIGNATURE_BYTES] + bytes(SIGNATURE_BYTES) + content[ENCRYPTED_SEED_BYTES:]
        ),
        "not signed by client 0",
    ),
    "a seed for another server": (
        lambda content: (
            content[ENCRYPTED_SEED_BYTES : 2 * ENCRYPTED_SEED_BYTES]
            + content[:ENCRYPTED_SEED_BYTES]
            + content[2 * ENCRYPTED_SEED_BYTES :]
        ),
        "cannot decrypt its seed",
    ),
    "no seeds": (lambda content: b"", "0 bytes for 10 values"),
}


@pytest.mark.parametrize(("change", "why"), FAULTS.values(), ids=FAULTS)
def test_forged_upload_is_refused(change, why):
    local = Local()
    sealed = local.clients.protect(np.zeros(10, np.int64))
    with pytest.raises(InvalidUpdate, match=why):
        local.server.check(make_envelope("shares", 10, change(verified_payload(sealed)), header_of(0, 0)))


def test_upload_of_other_run_is_refused():
    local = Local()
    local.clients.protect(np.zeros(10, np.int64))
    for here, why in ((Local(), "no key is registered for client 0"), (local, "not signed by client 0")):
        with pytest.raises(InvalidUpdate, match=why):
            here.server.check(Local().clients.protect(np.zeros(10, np.int64)))


def test_other_scheme_is_refused():
    with pytest.raises(InvalidUpdate, match="protected by 'plaintext', not by 'shares'"):
        Local().server.check(PlaintextAggregation(CODEC, 3).protect(np.zeros(10, np.int64)))


# Processes.


def test_share_servers_are_processes_with_own_keys():
    parties = build_parties(SecretSharing(), 3)
    server = build_server_side(SecretSharing(), 3, parties.material)
    names = {process.name: process.pid for process in active_children()}
    assert {"server 2 of 3", "server 3 of 3"} <= set(names) and os.getpid() not in names.values()
    sealed = [parties.clients.protect(np.array([1, -2, 3]), client, 1) for client in range(3)]
    for client, one in enumerate(sealed):
        server.check(one, client, 1)
    assert parties.clients.reveal(server.add(sealed)).tolist() == [3, -6, 9]
    parties.close()
    assert not {"server 2 of 3", "server 3 of 3"} & {process.name for process in active_children()}
    with pytest.raises(ChildProcessError, match="server 2 of 3 has ended"):
        server.check(sealed[0], 0, 1)


def test_share_server_refuses_other_requests():
    (line, _) = (parties := build_parties(SecretSharing(), 3)).material.connections
    for other in (b"o", b"y", b"", PUBLIC_KEY, REGISTER):
        with pytest.raises(InvalidUpdate, match="server 2 of 3 gives no answer to that"):
            line.ask(other)
    parties.close()


@pytest.mark.parametrize("what", [CHECK, SUM])
def test_share_server_survives_invalid_requests(what):
    parties = build_parties(SecretSharing(), 3)
    (line, _), seed = parties.material.connections, (0, bytes(ENCRYPTED_SEED_BYTES))
    for content in (
        b"",
        b"abc",
        b"x" * 100,
        seed_request(SeedContext(2**40, 4, 1), [seed]),
        seed_request(SeedContext(10, 5, 1), [seed]),
        seed_request(SeedContext(10, 4, 1), [seed, (1, bytes(ENCRYPTED_SEED_BYTES))]),
        seed_request(SeedContext(10, 4, 1), [seed])[:-1],
    ):
        with pytest.raises(InvalidUpdate):
            line.ask(what, content)
    upload = parties.clients.protect(np.arange(3), 0, 1)
    build_server_side(SecretSharing(), 3, parties.material).check(upload, 0, 1)
    parties.close()


def test_encryption_of_seed_is_randomized():
    public = ShareServer().answer(PUBLIC_KEY, b"")
    assert encrypt_hybrid(bytes(32), public, b"a") != encrypt_hybrid(bytes(32), public, b"a")
