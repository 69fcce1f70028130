"""Additive secret sharing between servers: who has all shares but one has learned nothing.

A client splits its update into shares that add up to it, one a server, modulo a power of 2. All shares but one are
random streams, so that a seed of 32 bytes is sent in the place of each, sealed for the helping server that it is for;
the share of the server that all send to is what is left, and takes as many bytes as the update. Each helping server
adds the streams of those clients whose updates are in the sum, and gives the sum of its shares. Sums are exact, a
client that is lost on the way is missing from all of them, and no client knows what opens another's update.

Servers are taken to follow the protocol, and not to collude, all of them. One that makes clients up could have a share
given in a sum whose other shares it knows.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ppml.aggregation.checksum import content_from, content_of, origin_of, sealed_of
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.party import Line, start_party
from ppml.aggregation.protocol import (
    Apart,
    BadUpdate,
    Parties,
    PublicMaterial,
    Sealed,
    WithoutSteps,
    refuse_scheme,
)
from ppml.aggregation.streams import KEY, TAG, agreed_key, locked, stream, unlocked, width_of
from ppml.config.technique import Shares

SCHEME = "shares"
PUBLIC, CHECK, SUM = b"p", b"c", b"s"
"""What a helping server is asked: its public key, whether it can read a seed, the sum of its shares."""

SEED = 32
WRAPPED = KEY + SEED + TAG
"""Bytes of a seed on its way: a public key made for it, and the seed, encrypted."""

LEAST = 2
"""Updates in a sum: that of one is the update."""

_ABOUT = struct.Struct("<QB")
"""How many values there are, and of how many bytes each."""


def wrapped(seed: bytes, public: bytes, about: bytes) -> bytes:
    """Return ``seed`` sealed for whoever has the secret key to ``public``, bound to ``about``."""
    once = X25519PrivateKey.generate()
    ours = once.public_key().public_bytes_raw()
    return ours + locked(agreed_key(once, public, b"shares" + ours + public), seed, about)


def unwrapped(sealed: bytes, secret: X25519PrivateKey, about: bytes) -> bytes:
    """Return what :func:`wrapped` sealed.

    Raises
    ------
    BadUpdate
        It was altered, or sealed for another key, or with something else.
    """
    theirs, public = sealed[:KEY], secret.public_key().public_bytes_raw()
    try:
        return unlocked(agreed_key(secret, theirs, b"shares" + theirs + public), sealed[KEY:], about)
    except ValueError:
        raise BadUpdate("a helping server cannot read the seed that is for it") from None


class HelpingServer:
    """A server that gives the sum of its shares, and no share.

    It gives each share once, in a sum of at least :data:`LEAST`: of two sums that differ in one client, the difference
    would be that client's share.
    """

    def __init__(self) -> None:
        self._secret = X25519PrivateKey.generate()
        self._given: set[bytes] = set()

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return the public key, nothing where a seed can be read, or the sum of the shares of some seeds."""
        if what == PUBLIC:
            return self._secret.public_key().public_bytes_raw()
        about, seeds = content[: _ABOUT.size], content[_ABOUT.size :]
        sealed = [seeds[start : start + WRAPPED] for start in range(0, len(seeds), WRAPPED)]
        if what == SUM:
            return self._sum(about, sealed)
        unwrapped(b"".join(sealed), self._secret, about)
        self._refuse_given(sealed)
        return b""

    def _sum(self, about: bytes, sealed: Sequence[bytes]) -> bytes:
        if len(set(sealed)) < LEAST:
            raise BadUpdate(f"a sum of fewer than {LEAST} updates is not opened: it would show one")
        self._refuse_given(sealed)
        # What the seeds were sealed with is what the clients said of their updates.
        seeds = [unwrapped(one, self._secret, about) for one in sealed]
        length, width = _ABOUT.unpack(about)
        total = np.zeros(length, dtype=f"<u{width}")
        for seed in seeds:
            total += stream(seed, length, width)
        self._given.update(sealed)
        return total.tobytes()

    def _refuse_given(self, sealed: Sequence[bytes]) -> None:
        if len(set(sealed)) < len(sealed) or not self._given.isdisjoint(sealed):
            raise BadUpdate("a share is given once: what two sums differ by would show one")


class SharingClients(WithoutSteps):
    """The clients: they have the helping servers' public keys, and nothing secret.

    Parameters
    ----------
    publics : sequence of bytes
        A key for each helping server.
    width : int
        Bytes a value.
    """

    def __init__(self, publics: Sequence[bytes], width: int) -> None:
        self._publics, self._width = tuple(publics), width

    def seal(self, update: Grid, client: int = 0, number: int = 0) -> Sealed:
        """Return a seed for each helping server, and what is left of ``update`` without their streams."""
        about = _ABOUT.pack(len(update), self._width)
        left = update.astype(f"<i{self._width}").view(f"<u{self._width}")
        seeds = []
        for public in self._publics:
            seed = os.urandom(SEED)
            left = left - stream(seed, len(update), self._width)
            seeds.append(wrapped(seed, public, about))
        return sealed_of(SCHEME, len(update), b"".join(seeds) + left.tobytes(), origin_of(client, number))

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

    def __init__(self, helpers: Sequence[Callable[[bytes, bytes], bytes]], width: int) -> None:
        self._helpers, self._width = tuple(helpers), width

    def check(self, sealed: Sealed, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is whole and each helping server can read its seed, for the first time."""
        refuse_scheme(sealed, SCHEME)
        seeds, values = self._parts(content_from(sealed, client, number))
        if len(values) != sealed.length * self._width:
            raise BadUpdate(f"{len(values)} bytes for {sealed.length} values of {self._width} bytes each")
        for ask, seed in zip(self._helpers, seeds, strict=True):
            ask(CHECK, _ABOUT.pack(sealed.length, self._width) + seed)

    def add(self, sealed: Sequence[Sealed]) -> Sealed:
        """Return the exact sum, which this server sees.

        Raises
        ------
        BadUpdate
            A helping server does not give the sum of its shares.
        """
        length, parts = sealed[0].length, [self._parts(content_of(one)) for one in sealed]
        total = np.zeros(length, dtype=f"<u{self._width}")
        for _, values in parts:
            total += np.frombuffer(values, dtype=total.dtype)
        for place, ask in enumerate(self._helpers):
            theirs = b"".join(seeds[place] for seeds, _ in parts)
            total += np.frombuffer(ask(SUM, _ABOUT.pack(length, self._width) + theirs), dtype=total.dtype)
        return sealed_of(SCHEME, length, total.tobytes())

    def _parts(self, content: bytes) -> tuple[list[bytes], bytes]:
        ends = WRAPPED * len(self._helpers)
        return [content[start : start + WRAPPED] for start in range(0, ends, WRAPPED)], content[ends:]


def parties(spec: Shares, clients: int) -> Parties:
    """Return the clients, and helping servers with new keys, each in a process of its own."""
    lines, ends = [], []
    for number in range(2, spec.servers + 1):
        (line,), end = start_party(
            f"server {number} of {spec.servers}", HelpingServer, [frozenset({PUBLIC, CHECK, SUM})]
        )
        lines.append(line)
        ends.append(end)
    side = SharingClients([line.ask(PUBLIC) for line in lines], width_of(clients, spec))
    return Parties(
        side, Helpers(lines), weakref.finalize(side, _end_all, ends), Apart(at_clients=partial(_close_all, lines))
    )


def _close_all(lines: Iterable[Line]) -> None:
    for line in lines:
        line.close()


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
