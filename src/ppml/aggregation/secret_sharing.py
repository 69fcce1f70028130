"""Additive secret sharing between servers: who has all shares but one has learned nothing.

A client splits its update into shares that add up to it, one a server, modulo a power of 2. All shares but one are
random streams, so that a seed of 32 bytes is sent in the place of each, encrypted to the helping server that it is for;
the share of the server that all send to is what is left, and takes as many bytes as the update. Each helping server
adds the streams of those clients whose updates are in the sum, and gives the sum of its shares. Sums are exact, a
client that is lost on the way is missing from all of them, and no client knows what opens another's update.

Each client signs its seeds, with its number, the round and the size of its update, by a key that it has registered with
each helping server itself. So the adding server cannot make up clients, pass a seed on for another round or client, or
have a share given twice: a helping server gives one sum a round, of at least :data:`MIN_CLIENTS` clients that have signed for
that round. The register of a helping server takes the first key that comes for a client, by a line that the adding
server does not have.

*What remains.* All servers together open every update. An adding server that deviates, with one registered client that
colludes, can ask for the sum of that client and another one, and so opens the other's update, in one round for one
client. Seeds are encrypted under ML-KEM-768 with X25519, so that messages that are recorded now stay closed to a
quantum computer of later.
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
    payload_from,
    verified_payload,
    client_and_round,
    header_of,
    check_size,
    make_envelope,
)
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.hpke import HYBRID_OVERHEAD, HybridKey, DecryptionError, encrypt_hybrid
from ppml.aggregation.identities import REGISTER, SIGNATURE_BYTES, KeyRegister, ClientSigners, registration_request, signature_verifier
from ppml.aggregation.interfaces import Parties, ServerKeyMaterial, ProtectedUpdate, SingleStep, check_scheme
from ppml.aggregation.primitives import prg, integer_width
from ppml.config.technique import SecretSharing
from ppml.errors import InvalidUpdate
from ppml.ipc.process import MAX_MESSAGE_BYTES, RpcConnection, isolation_hooks, start_process

SCHEME = "shares"
PUBLIC_KEY, CHECK, SUM = b"p", b"c", b"s"
"""What a helping server is asked: its public key, whether it can read a seed, the sum of its shares."""

CLIENT_REQUESTS, SERVER_REQUESTS = frozenset({PUBLIC_KEY, REGISTER}), frozenset({CHECK, SUM})
"""Who may ask what. A server that could register keys could make clients up."""

SEED_BYTES = 32
ENCRYPTED_SEED_BYTES = SEED_BYTES + HYBRID_OVERHEAD + SIGNATURE_BYTES
"""Bytes of a seed on its way, encrypted and signed."""

MIN_CLIENTS = 2
"""Clients in a sum: that of one is its update."""

_CONTEXT = struct.Struct("<QBQ")
_CLIENT = struct.Struct("<I")
_WIDTHS = (4, 8)

Ask = Callable[[bytes, bytes], bytes]
"""Asks a helping server, with a question and what goes with it, and returns the answer."""


class SeedContext(NamedTuple):
    """What seeds are bound to, beside the client.

    Parameters
    ----------
    length : int
        How many values an update has.
    width : int
        Bytes a value.
    number : int
        The round.
    """

    length: int
    width: int
    number: int

    def of(self, client: int) -> bytes:
        """Return what the seed of ``client`` is bound to."""
        return b"ppml shares" + _CONTEXT.pack(*self) + _CLIENT.pack(client)


def seed_request(about: SeedContext, letters: Iterable[tuple[int, bytes]]) -> bytes:
    """Return what a helping server is asked about the encrypted seeds of some clients."""
    return _CONTEXT.pack(*about) + b"".join(_CLIENT.pack(client) + letter for client, letter in letters)


def _parse_request(content: bytes) -> tuple[SeedContext, dict[int, bytes]]:
    """Return what :func:`seed_request` packed."""
    step = _CLIENT.size + ENCRYPTED_SEED_BYTES
    count, rest = divmod(len(content) - _CONTEXT.size, step)
    if count < 1 or rest:
        raise InvalidUpdate(f"a question of {len(content)} bytes, which is none about seeds")
    about = SeedContext(*_CONTEXT.unpack_from(content))
    if about.width not in _WIDTHS or about.length * about.width > MAX_MESSAGE_BYTES:
        raise InvalidUpdate(f"{about.length} values of {about.width} bytes, not of 4 or 8, or more than {MAX_MESSAGE_BYTES} bytes")
    starts = range(_CONTEXT.size, len(content), step)
    letters = {_CLIENT.unpack_from(content, start)[0]: content[start + _CLIENT.size : start + step] for start in starts}
    if len(letters) < count:
        raise InvalidUpdate("a client is in a question twice: a share is given once")
    return about, letters


class ShareServer:
    """A server that gives the sum of its shares, and no share.

    It gives one sum a round, and none of a round before: of two sums that differ in one client, the difference would be
    that client's share.
    """

    def __init__(self) -> None:
        self._key = HybridKey()
        self._register = KeyRegister()
        self._verify = signature_verifier(self._register)
        self._last = -1

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return the public key, nothing where a seed can be read or a key is taken, or the sum of some shares."""
        if what == PUBLIC_KEY:
            return self._key.public
        if what == REGISTER:
            return self._register.answer(what, content)
        about, letters = _parse_request(content)
        if about.number <= self._last:
            raise InvalidUpdate(
                f"a sum of round {self._last} was given and one of round {about.number} is not: what two sums differ "
                "by would show one update"
            )
        if what == SUM and len(letters) < MIN_CLIENTS:
            raise InvalidUpdate(f"a sum of fewer than {MIN_CLIENTS} updates is not opened: it would show one")
        seeds = {client: self._seed(about, client, letter) for client, letter in letters.items()}
        return self._sum(about, seeds) if what == SUM else b""

    def _seed(self, about: SeedContext, client: int, letter: bytes) -> bytes:
        """Return the seed of a client that has signed it for this round and size."""
        bound, message, signature = about.of(client), letter[:-SIGNATURE_BYTES], letter[-SIGNATURE_BYTES:]
        self._verify(client, signature, bound + message)
        try:
            seed = self._key.decrypt(message, bound)
        except DecryptionError:
            raise InvalidUpdate("a helping server cannot read the seed that is for it") from None
        if len(seed) != SEED_BYTES:
            raise InvalidUpdate(f"a seed of {len(seed)} bytes, not {SEED_BYTES}")
        return seed

    def _sum(self, about: SeedContext, seeds: Mapping[int, bytes]) -> bytes:
        total = np.zeros(about.length, dtype=f"<u{about.width}")
        for seed in seeds.values():
            total += prg(seed, about.length, about.width)
        self._last = about.number
        return total.tobytes()


class SharingClients(SingleStep):
    """The clients: they have the helping servers' public keys, and each a key of its own that it signs with.

    Parameters
    ----------
    helpers : sequence of callable
        Each asks a helping server, by a line that the adding server does not have.
    width : int
        Bytes a value.
    """

    def __init__(self, helpers: Sequence[Ask], width: int) -> None:
        self._helpers, self._width = tuple(helpers), width
        self._publics = tuple(ask(PUBLIC_KEY, b"") for ask in helpers)
        self._signers = ClientSigners(self._have_registered)

    def _have_registered(self, client: int, public: bytes) -> None:
        for ask in self._helpers:
            ask(REGISTER, registration_request(client, public))

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return a seed for each helping server, and what is left of ``update`` without their streams."""
        bound = SeedContext(len(update), self._width, number).of(client)
        left = update.astype(f"<i{self._width}").view(f"<u{self._width}")
        letters = []
        for public in self._publics:
            seed = os.urandom(SEED_BYTES)
            left = left - prg(seed, len(update), self._width)
            message = encrypt_hybrid(seed, public, bound)
            letters.append(message + self._signers.sign(client, bound + message))
        return make_envelope(SCHEME, len(update), b"".join(letters) + left.tobytes(), header_of(client, number))

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum, which the servers have put together."""
        return np.frombuffer(verified_payload(total), dtype=f"<i{self._width}").astype(np.int64)


class SharingServer(SingleStep):
    """The server that all clients send to.

    Parameters
    ----------
    helpers : sequence of callable
        Each asks a helping server and returns its answer.
    width : int
        Bytes a value.
    """

    def __init__(self, helpers: Sequence[Ask], width: int) -> None:
        self._helpers, self._width = tuple(helpers), width

    def check(self, sealed: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is whole, and each helping server takes its seed.

        It does where the client has signed the seed for this round.
        """
        check_scheme(sealed, SCHEME)
        check_size(sealed, FINGERPRINT_BYTES + HEADER_BYTES + ENCRYPTED_SEED_BYTES * len(self._helpers) + sealed.length * self._width)
        letters, values = self._parts(payload_from(sealed, client, number))
        if len(values) != sealed.length * self._width:
            raise InvalidUpdate(f"{len(values)} bytes for {sealed.length} values of {self._width} bytes each")
        for ask, letter in zip(self._helpers, letters, strict=True):
            ask(CHECK, seed_request(SeedContext(sealed.length, self._width, number), [(client, letter)]))

    def add(self, sealed: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the exact sum, which this server sees.

        Raises
        ------
        InvalidUpdate
            A helping server does not give the sum of its shares.
        """
        length, parts = sealed[0].length, [self._parts(verified_payload(one)) for one in sealed]
        origins = [client_and_round(one) for one in sealed]
        about = SeedContext(length, self._width, origins[0][1])
        total = np.zeros(length, dtype=f"<u{self._width}")
        for _, values in parts:
            total += np.frombuffer(values, dtype=total.dtype)
        for place, ask in enumerate(self._helpers):
            theirs = [(client, letters[place]) for (client, _), (letters, _) in zip(origins, parts, strict=True)]
            given = ask(SUM, seed_request(about, theirs))
            if len(given) != total.nbytes:
                raise InvalidUpdate(f"a helping server gives {len(given)} bytes for a sum of {total.nbytes}")
            total += np.frombuffer(given, dtype=total.dtype)
        return make_envelope(SCHEME, length, total.tobytes())

    def _parts(self, content: bytes) -> tuple[list[bytes], bytes]:
        ends = ENCRYPTED_SEED_BYTES * len(self._helpers)
        return [content[start : start + ENCRYPTED_SEED_BYTES] for start in range(0, ends, ENCRYPTED_SEED_BYTES)], content[ends:]


def parties(spec: SecretSharing, clients: int) -> Parties:
    """Return the clients, and helping servers with new keys, each in a process of its own."""
    by_clients, by_server, ends = [], [], []
    for number in range(2, spec.servers + 1):
        (near, far), end = start_process(f"server {number} of {spec.servers}", ShareServer, [CLIENT_REQUESTS, SERVER_REQUESTS])
        by_clients.append(near)
        by_server.append(far)
        ends.append(end)
    side = SharingClients([line.ask for line in by_clients], integer_width(clients, spec))
    return Parties(side, ShareServers(by_server), weakref.finalize(side, _stop_all, ends), isolation_hooks(by_clients, by_server))


def _stop_all(ends: Iterable[Callable[[], None]]) -> None:
    for end in ends:
        end()


class ShareServers(ServerKeyMaterial):
    """What the server has of the helping servers: a line to each. Adding shares needs no key."""

    def __init__(self, lines: Sequence[RpcConnection]) -> None:
        self.lines = tuple(lines)


def server_side(spec: SecretSharing, clients: int, material: ServerKeyMaterial) -> SharingServer:
    """Return the server that all clients send to, with its lines to the others."""
    assert isinstance(material, ShareServers)
    return SharingServer([line.ask for line in material.lines], integer_width(clients, spec))
