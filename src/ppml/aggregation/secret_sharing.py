"""Additive secret sharing between servers: who has all shares but one has learned nothing.

A client splits its update into shares that add up to it, one a server, modulo a power of 2. All shares but one are
random streams, so that a seed of 32 bytes is sent in the place of each, encrypted to the helping server that it is for;
the share of the server that all send to is what is left, and takes as many bytes as the update. Each helping server
adds the streams of those clients whose updates are in the sum, and gives the sum of its shares. Sums are exact, a
client that is lost on the way is missing from all of them, and no client knows what opens another's update.

Each client signs its seeds, with its number, the round and the size of its update, by a key that it has registered with
each helping server itself. So the adding server cannot make up clients, pass a seed on for another round or client, or
have a share given twice: a helping server gives one sum a round, of at least :data:`LEAST` clients that have signed for
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
    MARK,
    ORIGIN,
    content_from,
    content_of,
    origin_in,
    origin_of,
    refuse_excess,
    sealed_of,
)
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.hpke import HYBRID_OVERHEAD, HybridKey, Unreadable, encrypted_hybrid
from ppml.aggregation.identities import REGISTER, SIGNATURE, Register, Signers, registration, verify_by
from ppml.aggregation.interfaces import (
    BadUpdate,
    Parties,
    PublicMaterial,
    Sealed,
    WithoutSteps,
    refuse_scheme,
)
from ppml.aggregation.primitives import stream, width_of
from ppml.config.technique import Shares
from ppml.ipc.process import LONGEST, Line, parted, start_party

SCHEME = "shares"
PUBLIC, CHECK, SUM = b"p", b"c", b"s"
"""What a helping server is asked: its public key, whether it can read a seed, the sum of its shares."""

BY_CLIENTS, BY_SERVER = frozenset({PUBLIC, REGISTER}), frozenset({CHECK, SUM})
"""Who may ask what. A server that could register keys could make clients up."""

SEED = 32
WRAPPED = SEED + HYBRID_OVERHEAD + SIGNATURE
"""Bytes of a seed on its way, encrypted and signed."""

LEAST = 2
"""Clients in a sum: that of one is its update."""

_ABOUT = struct.Struct("<QBQ")
_CLIENT = struct.Struct("<I")
_WIDTHS = (4, 8)

Ask = Callable[[bytes, bytes], bytes]
"""Asks a helping server, with a question and what goes with it, and returns the answer."""


class About(NamedTuple):
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
        return b"ppml shares" + _ABOUT.pack(*self) + _CLIENT.pack(client)


def question(about: About, letters: Iterable[tuple[int, bytes]]) -> bytes:
    """Return what a helping server is asked about the encrypted seeds of some clients."""
    return _ABOUT.pack(*about) + b"".join(_CLIENT.pack(client) + letter for client, letter in letters)


def _read(content: bytes) -> tuple[About, dict[int, bytes]]:
    """Return what :func:`question` packed."""
    step = _CLIENT.size + WRAPPED
    count, rest = divmod(len(content) - _ABOUT.size, step)
    if count < 1 or rest:
        raise BadUpdate(f"a question of {len(content)} bytes, which is none about seeds")
    about = About(*_ABOUT.unpack_from(content))
    if about.width not in _WIDTHS or about.length * about.width > LONGEST:
        raise BadUpdate(f"{about.length} values of {about.width} bytes, not of 4 or 8, or more than {LONGEST} bytes")
    starts = range(_ABOUT.size, len(content), step)
    letters = {_CLIENT.unpack_from(content, start)[0]: content[start + _CLIENT.size : start + step] for start in starts}
    if len(letters) < count:
        raise BadUpdate("a client is in a question twice: a share is given once")
    return about, letters


class HelpingServer:
    """A server that gives the sum of its shares, and no share.

    It gives one sum a round, and none of a round before: of two sums that differ in one client, the difference would be
    that client's share.
    """

    def __init__(self) -> None:
        self._key = HybridKey()
        self._register = Register()
        self._verify = verify_by(self._register)
        self._last = -1

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return the public key, nothing where a seed can be read or a key is taken, or the sum of some shares."""
        if what == PUBLIC:
            return self._key.public
        if what == REGISTER:
            return self._register.answer(what, content)
        about, letters = _read(content)
        if about.number <= self._last:
            raise BadUpdate(
                f"a sum of round {self._last} was given and one of round {about.number} is not: what two sums differ "
                "by would show one update"
            )
        if what == SUM and len(letters) < LEAST:
            raise BadUpdate(f"a sum of fewer than {LEAST} updates is not opened: it would show one")
        seeds = {client: self._seed(about, client, letter) for client, letter in letters.items()}
        return self._sum(about, seeds) if what == SUM else b""

    def _seed(self, about: About, client: int, letter: bytes) -> bytes:
        """Return the seed of a client that has signed it for this round and size."""
        bound, message, signature = about.of(client), letter[:-SIGNATURE], letter[-SIGNATURE:]
        self._verify(client, signature, bound + message)
        try:
            seed = self._key.decrypt(message, bound)
        except Unreadable:
            raise BadUpdate("a helping server cannot read the seed that is for it") from None
        if len(seed) != SEED:
            raise BadUpdate(f"a seed of {len(seed)} bytes, not {SEED}")
        return seed

    def _sum(self, about: About, seeds: Mapping[int, bytes]) -> bytes:
        total = np.zeros(about.length, dtype=f"<u{about.width}")
        for seed in seeds.values():
            total += stream(seed, about.length, about.width)
        self._last = about.number
        return total.tobytes()


class SharingClients(WithoutSteps):
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
        self._publics = tuple(ask(PUBLIC, b"") for ask in helpers)
        self._signers = Signers(self._have_registered)

    def _have_registered(self, client: int, public: bytes) -> None:
        for ask in self._helpers:
            ask(REGISTER, registration(client, public))

    def seal(self, update: Grid, client: int = 0, number: int = 0) -> Sealed:
        """Return a seed for each helping server, and what is left of ``update`` without their streams."""
        bound = About(len(update), self._width, number).of(client)
        left = update.astype(f"<i{self._width}").view(f"<u{self._width}")
        letters = []
        for public in self._publics:
            seed = os.urandom(SEED)
            left = left - stream(seed, len(update), self._width)
            message = encrypted_hybrid(seed, public, bound)
            letters.append(message + self._signers.sign(client, bound + message))
        return sealed_of(SCHEME, len(update), b"".join(letters) + left.tobytes(), origin_of(client, number))

    def unseal(self, total: Sealed) -> Grid:
        """Return the sum, which the servers have put together."""
        return np.frombuffer(content_of(total), dtype=f"<i{self._width}").astype(np.int64)


class SharingServer(WithoutSteps):
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

    def check(self, sealed: Sealed, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is whole, and each helping server takes its seed.

        It does where the client has signed the seed for this round.
        """
        refuse_scheme(sealed, SCHEME)
        refuse_excess(sealed, MARK + ORIGIN + WRAPPED * len(self._helpers) + sealed.length * self._width)
        letters, values = self._parts(content_from(sealed, client, number))
        if len(values) != sealed.length * self._width:
            raise BadUpdate(f"{len(values)} bytes for {sealed.length} values of {self._width} bytes each")
        for ask, letter in zip(self._helpers, letters, strict=True):
            ask(CHECK, question(About(sealed.length, self._width, number), [(client, letter)]))

    def add(self, sealed: Sequence[Sealed]) -> Sealed:
        """Return the exact sum, which this server sees.

        Raises
        ------
        BadUpdate
            A helping server does not give the sum of its shares.
        """
        length, parts = sealed[0].length, [self._parts(content_of(one)) for one in sealed]
        origins = [origin_in(one) for one in sealed]
        about = About(length, self._width, origins[0][1])
        total = np.zeros(length, dtype=f"<u{self._width}")
        for _, values in parts:
            total += np.frombuffer(values, dtype=total.dtype)
        for place, ask in enumerate(self._helpers):
            theirs = [(client, letters[place]) for (client, _), (letters, _) in zip(origins, parts, strict=True)]
            given = ask(SUM, question(about, theirs))
            if len(given) != total.nbytes:
                raise BadUpdate(f"a helping server gives {len(given)} bytes for a sum of {total.nbytes}")
            total += np.frombuffer(given, dtype=total.dtype)
        return sealed_of(SCHEME, length, total.tobytes())

    def _parts(self, content: bytes) -> tuple[list[bytes], bytes]:
        ends = WRAPPED * len(self._helpers)
        return [content[start : start + WRAPPED] for start in range(0, ends, WRAPPED)], content[ends:]


def parties(spec: Shares, clients: int) -> Parties:
    """Return the clients, and helping servers with new keys, each in a process of its own."""
    by_clients, by_server, ends = [], [], []
    for number in range(2, spec.servers + 1):
        (near, far), end = start_party(f"server {number} of {spec.servers}", HelpingServer, [BY_CLIENTS, BY_SERVER])
        by_clients.append(near)
        by_server.append(far)
        ends.append(end)
    side = SharingClients([line.ask for line in by_clients], width_of(clients, spec))
    return Parties(side, Helpers(by_server), weakref.finalize(side, _end_all, ends), parted(by_clients, by_server))


def _end_all(ends: Iterable[Callable[[], None]]) -> None:
    for end in ends:
        end()


class Helpers(PublicMaterial):
    """What the server has of the helping servers: a line to each. Adding shares needs no key."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = tuple(lines)


def server_side(spec: Shares, clients: int, material: PublicMaterial) -> SharingServer:
    """Return the server that all clients send to, with its lines to the others."""
    assert isinstance(material, Helpers)
    return SharingServer([line.ask for line in material.lines], width_of(clients, spec))
