"""Additive secret sharing between servers: all shares of an update but one reveal nothing about it.

A client splits its update into additive shares modulo a power of 2, one per server. All shares but one are
pseudorandom streams, so that the client sends a seed of 32 bytes in place of each, encrypted to its share server; the
share of the aggregating server is the remainder, and has as many bytes as the update. Each share server adds the
streams of the clients in the sum, and returns the sum of its shares. Sums are exact, a dropout is missing from all of
them, and no client has a key to the update of another.

Each client signs its seeds, with its number, the round and the size of its update, by a key that it has registered with
each share server itself. So the aggregating server cannot fabricate clients, reuse a seed for another round or client,
or obtain a share twice: a share server returns one sum per round, of at least :data:`MIN_CLIENTS` clients with
signatures for that round. The register of a share server accepts the first key of a client, through a connection that
the aggregating server does not have.

*Limits.* All servers together can reveal every update. A deviating aggregating server with one colluding client can
request the sum of that client and another one, and so reveal the other's update, for one client per round. Seeds are
encrypted under ML-KEM-768 with X25519, so that recorded messages stay secret from a later quantum computer.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ppml.aggregation.envelope import (
    FINGERPRINT_BYTES,
    HEADER_BYTES,
    check_size,
    client_and_round,
    header_of,
    make_envelope,
    payload_from,
    verified_payload,
)
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.hpke import HYBRID_OVERHEAD, DecryptionError, HybridKey, encrypt_hybrid
from ppml.aggregation.identities import (
    REGISTER,
    SIGNATURE_BYTES,
    ClientSigners,
    KeyRegister,
    registration_request,
    signature_verifier,
)
from ppml.aggregation.interfaces import Parties, ProtectedUpdate, ServerKeyMaterial, SingleStep, check_scheme
from ppml.aggregation.primitives import integer_width, prg
from ppml.config.technique import SecretSharing
from ppml.errors import InvalidUpdate
from ppml.ipc.process import MAX_MESSAGE_BYTES, RpcConnection, isolation_hooks, start_process

SCHEME = "shares"
PUBLIC_KEY, CHECK, SUM = b"p", b"c", b"s"
"""Requests to a share server: its public key; a check of an encrypted seed; the sum of its shares."""

CLIENT_REQUESTS, SERVER_REQUESTS = frozenset({PUBLIC_KEY, REGISTER}), frozenset({CHECK, SUM})
"""Allowed requests. The aggregating server may not register keys: it could fabricate clients."""

SEED_BYTES = 32
ENCRYPTED_SEED_BYTES = SEED_BYTES + HYBRID_OVERHEAD + SIGNATURE_BYTES
"""Bytes of an encrypted and signed seed."""

MIN_CLIENTS = 2
"""Clients in a sum: the sum of one client is its update."""

_CONTEXT = struct.Struct("<QBQ")
_CLIENT = struct.Struct("<I")
_WIDTHS = (4, 8)

Ask = Callable[[bytes, bytes], bytes]
"""Sends a request, as code and content, to a share server and returns the reply."""


class SeedContext(NamedTuple):
    """The context of encrypted seeds, without the client.

    Parameters
    ----------
    length : int
        Number of values of an update.
    width : int
        Bytes per value.
    number : int
        The round.
    """

    length: int
    width: int
    number: int

    def of(self, client: int) -> bytes:
        """Return the ``info`` string of the encrypted seed of ``client``."""
        return b"ppml shares" + _CONTEXT.pack(*self) + _CLIENT.pack(client)


def seed_request(context: SeedContext, seeds: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the content of a request to a share server about the encrypted seeds of some clients."""
    return _CONTEXT.pack(*context) + b"".join(_CLIENT.pack(client) + seed for client, seed in seeds)


def _parse_request(content: bytes) -> tuple[SeedContext, dict[int, bytes]]:
    """Return the context and the encrypted seeds of a :func:`seed_request`."""
    step = _CLIENT.size + ENCRYPTED_SEED_BYTES
    count, rest = divmod(len(content) - _CONTEXT.size, step)
    if count < 1 or rest:
        raise InvalidUpdate(f"a request of {len(content)} bytes without whole seeds")
    context = SeedContext(*_CONTEXT.unpack_from(content))
    if context.width not in _WIDTHS or context.length * context.width > MAX_MESSAGE_BYTES:
        raise InvalidUpdate(
            f"{context.length} values of {context.width} bytes, not of 4 or 8, or more than {MAX_MESSAGE_BYTES} bytes"
        )
    starts = range(_CONTEXT.size, len(content), step)
    seeds = {_CLIENT.unpack_from(content, start)[0]: content[start + _CLIENT.size : start + step] for start in starts}
    if len(seeds) < count:
        raise InvalidUpdate("a request names a client twice: a share is added once")
    return context, seeds


class ShareServer:
    """A server that returns the sum of its shares, but no single share.

    It returns one sum per round, and none of an earlier round: the difference of two sums that differ in one client is
    that client's share.
    """

    def __init__(self) -> None:
        self._key = HybridKey()
        self._register = KeyRegister()
        self._verify = signature_verifier(self._register)
        self._last = -1

    def answer(self, code: bytes, content: bytes) -> bytes:
        """Return the public key, the sum of shares, or nothing for a valid seed or registration."""
        if code == PUBLIC_KEY:
            return self._key.public
        if code == REGISTER:
            return self._register.answer(code, content)
        context, seeds = _parse_request(content)
        if context.number <= self._last:
            raise InvalidUpdate(
                f"the share server has returned a sum of round {self._last} and returns none of round "
                f"{context.number}: the difference of two sums would reveal an update"
            )
        if code == SUM and len(seeds) < MIN_CLIENTS:
            raise InvalidUpdate(f"a sum of fewer than {MIN_CLIENTS} updates would reveal one")
        decrypted = {client: self._decrypt_seed(context, client, seed) for client, seed in seeds.items()}
        return self._sum(context, decrypted) if code == SUM else b""

    def _decrypt_seed(self, context: SeedContext, client: int, encrypted: bytes) -> bytes:
        """Return the seed of a client that has signed it for this round and size."""
        info, ciphertext, signature = context.of(client), encrypted[:-SIGNATURE_BYTES], encrypted[-SIGNATURE_BYTES:]
        self._verify(client, signature, info + ciphertext)
        try:
            seed = self._key.decrypt(ciphertext, info)
        except DecryptionError:
            raise InvalidUpdate("a share server cannot decrypt its seed") from None
        if len(seed) != SEED_BYTES:
            raise InvalidUpdate(f"a seed of {len(seed)} bytes, not {SEED_BYTES}")
        return seed

    def _sum(self, context: SeedContext, seeds: Mapping[int, bytes]) -> bytes:
        total = np.zeros(context.length, dtype=f"<u{context.width}")
        for seed in seeds.values():
            total += prg(seed, context.length, context.width)
        self._last = context.number
        return total.tobytes()


class SharingClients(SingleStep):
    """The clients: they have the public keys of the share servers, and a signing key each.

    Parameters
    ----------
    servers : sequence of callable
        Connections to the share servers, which the aggregating server does not have.
    width : int
        Bytes per value.
    """

    def __init__(self, servers: Sequence[Ask], width: int) -> None:
        self._servers, self._width = tuple(servers), width
        self._public_keys = tuple(ask(PUBLIC_KEY, b"") for ask in servers)
        self._signers = ClientSigners(self._register)

    def _register(self, client: int, public: bytes) -> None:
        for ask in self._servers:
            ask(REGISTER, registration_request(client, public))

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return an encrypted seed for each share server, and the remaining share of ``update``."""
        info = SeedContext(len(update), self._width, number).of(client)
        remainder = update.astype(f"<i{self._width}").view(f"<u{self._width}")
        encrypted_seeds = []
        for public in self._public_keys:
            seed = os.urandom(SEED_BYTES)
            remainder = remainder - prg(seed, len(update), self._width)
            ciphertext = encrypt_hybrid(seed, public, info)
            encrypted_seeds.append(ciphertext + self._signers.sign(client, info + ciphertext))
        content = b"".join(encrypted_seeds) + remainder.tobytes()
        return make_envelope(SCHEME, len(update), content, header_of(client, number))

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum, which the servers have combined."""
        return np.frombuffer(verified_payload(total), dtype=f"<i{self._width}").astype(np.int64)


class SharingServer(SingleStep):
    """The aggregating server, which receives the uploads of all clients.

    Parameters
    ----------
    servers : sequence of callable
        Connections to the share servers.
    width : int
        Bytes per value.
    """

    def __init__(self, servers: Sequence[Ask], width: int) -> None:
        self._servers, self._width = tuple(servers), width

    def check(self, upload: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is complete, and each share server accepts its seed.

        A share server accepts a seed that the client has signed for this round.
        """
        check_scheme(upload, SCHEME)
        seeds_bytes = ENCRYPTED_SEED_BYTES * len(self._servers)
        check_size(upload, FINGERPRINT_BYTES + HEADER_BYTES + seeds_bytes + upload.length * self._width)
        seeds, values = self._parts(payload_from(upload, client, number))
        if len(values) != upload.length * self._width:
            raise InvalidUpdate(f"{len(values)} bytes for {upload.length} values of {self._width} bytes each")
        for ask, seed in zip(self._servers, seeds, strict=True):
            ask(CHECK, seed_request(SeedContext(upload.length, self._width, number), [(client, seed)]))

    def add(self, uploads: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the exact sum, which this server sees.

        Raises
        ------
        InvalidUpdate
            A share server does not return the sum of its shares.
        """
        length, parts = uploads[0].length, [self._parts(verified_payload(upload)) for upload in uploads]
        headers = [client_and_round(upload) for upload in uploads]
        context = SeedContext(length, self._width, headers[0][1])
        total = np.zeros(length, dtype=f"<u{self._width}")
        for _, values in parts:
            total += np.frombuffer(values, dtype=total.dtype)
        for index, ask in enumerate(self._servers):
            seeds = [(client, found[index]) for (client, _), (found, _) in zip(headers, parts, strict=True)]
            reply = ask(SUM, seed_request(context, seeds))
            if len(reply) != total.nbytes:
                raise InvalidUpdate(f"a share server returns {len(reply)} bytes for a sum of {total.nbytes}")
            total += np.frombuffer(reply, dtype=total.dtype)
        return make_envelope(SCHEME, length, total.tobytes())

    def _parts(self, content: bytes) -> tuple[list[bytes], bytes]:
        """Return the encrypted seeds and the values of an upload."""
        end = ENCRYPTED_SEED_BYTES * len(self._servers)
        starts = range(0, end, ENCRYPTED_SEED_BYTES)
        return [content[start : start + ENCRYPTED_SEED_BYTES] for start in starts], content[end:]


def parties(spec: SecretSharing, clients: int) -> Parties:
    """Return the clients, and share servers with new keys, each in a process of its own."""
    for_clients, for_server, stops = [], [], []
    for number in range(2, spec.servers + 1):
        connections, stop = start_process(
            f"server {number} of {spec.servers}", ShareServer, [CLIENT_REQUESTS, SERVER_REQUESTS]
        )
        for_clients.append(connections[0])
        for_server.append(connections[1])
        stops.append(stop)
    side = SharingClients([connection.ask for connection in for_clients], integer_width(clients, spec))
    hooks = isolation_hooks(for_clients, for_server)
    return Parties(side, ShareServers(for_server), weakref.finalize(side, _stop_all, stops), hooks)


def _stop_all(stops: Iterable[Callable[[], None]]) -> None:
    for stop in stops:
        stop()


class ShareServers(ServerKeyMaterial):
    """The aggregating server's connections to the share servers; adding shares needs no key."""

    def __init__(self, connections: Sequence[RpcConnection]) -> None:
        self.connections = tuple(connections)


def server_side(spec: SecretSharing, clients: int, material: ServerKeyMaterial) -> SharingServer:
    """Return the aggregating server, connected to the share servers."""
    assert isinstance(material, ShareServers)
    return SharingServer([connection.ask for connection in material.connections], integer_width(clients, spec))
