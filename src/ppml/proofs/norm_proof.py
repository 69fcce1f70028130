"""A norm bound that servers check without seeing an update: a demonstration, which no ``aggregation`` configures.

An update is shared between servers as in :mod:`ppml.aggregation.secret_sharing`, but modulo a prime of 61 bits.
The servers see no update, and yet refuse one whose norm exceeds a bound. What is proven, and why no square wraps round,
is in :mod:`ppml.proofs.norm_bound`; how squares and bits are shown, in :mod:`ppml.proofs.square_proof`.
The construction is close to PINE (Rothblum, Omri, Chen and Talwar, arXiv 2311.10237), with coins of the servers in the
place of a hash of what the client sent. An upload goes like this:

1. Every server commits itself to two coins, towards all others and the client.
2. The client shares its update. A server that has its share shows its first coin.
3. All first coins give the projections. The client shares their bits and the proof, and names to each server the
   projections that it was told: a server that has drawn others opens nothing.
4. A server that has its share of the proof shows its second coin. All second coins give a point.
5. Every server sends what its shares come to there. The sums of these are the wires, which are uniform, two values that
   follow from them, and zeros. Where they are anything else, all refuse the upload.

*Soundness.* A client that has shared an update of a larger norm is accepted with probability at most
:attr:`~ppml.proofs.norm_bound.NormBound.soundness_error`, below 2^-52 an upload, whatever it sends and however
long it calculates: first and second coins are drawn when what they question is fixed. (What was drawn is stretched by
SHA-256 and AES-256, which are taken to give what cannot be told from random.) Servers follow the protocol; one that
does not can have accepted or refused what it likes.

*Zero knowledge.* Who controls all servers but one, and makes them do as it likes, learns nothing of an honest
client's update but that it was accepted, or that it was refused for what was done to it: the shares that it has are
streams, or what is left by one that it does not have, and what the last server sends follows from these and uniform
values. A client whose projections are outside the interval cannot go on, which says something of its update; it
happens with probability below 2^-44.

It is not part of training because it takes what no arm has: a bound that is worth setting, an answer of the client
between two draws in each round, and eight bytes a value in the place of four. Channels are taken to be authentic and
private, as sealing by :func:`ppml.aggregation.secret_sharing.wrapped` makes them, for 48 bytes a part.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.interfaces import BadUpdate
from ppml.aggregation.secret_sharing import LEAST
from ppml.proofs.coin_tossing import NONCE, Coin, tossed
from ppml.proofs.norm_bound import NormBound
from ppml.proofs.prime_field import (
    Elements,
    constant,
    drawn,
    elements,
    integers,
    minus,
    packed,
    plus,
    times,
    total,
    unpacked,
)
from ppml.proofs.projection import projected
from ppml.proofs.square_proof import (
    Point,
    Proof,
    bit_wires,
    bits_at,
    bits_of,
    lines_of,
    numbers_of,
    proof_length,
    proof_of,
    proven,
    square_at,
    wires,
    wires_at,
)

DRAWS = PROJECTIONS, POINT = b"projections", b"point"
"""What the servers draw together."""

UPDATE, PROOF = b"update", b"proof"
"""What is shared."""

SEED = 32


def stream_of(seed: bytes, what: bytes, count: int) -> Elements:
    """Return the share that a seed stands for."""
    return drawn(hashlib.sha256(b"ppml share" + what + seed).digest(), count)


class OverBound(ValueError):
    """An update that cannot be proven."""


class Prover:
    """A client with one upload.

    Parameters
    ----------
    statement : NormBound
        What is to be proven.
    commitments : sequence of bytes
        Those of all servers to their first coins: the client has them before it shares anything.
    """

    def __init__(self, statement: NormBound, commitments: Sequence[bytes]) -> None:
        self._statement, self._commitments = statement, tuple(commitments)
        self._seeds = [os.urandom(SEED) for _ in self._commitments[1:]]
        self._update: Elements | None = None

    def shares(self, update: Grid) -> list[bytes]:
        """Return what each server gets: the first what is left of the update, the others a seed."""
        if self._update is not None:
            raise RuntimeError("seeds serve one update")
        self._refuse(update)
        self._update = elements(update)
        return [self._left(self._update, UPDATE), *self._seeds]

    def proof(self, nonces: Sequence[bytes]) -> list[bytes]:
        """Return what each server gets, once all have shown their first coins.

        Raises
        ------
        OverBound
            A projection is outside the interval.
        BadUpdate
            A server shows another coin than it committed itself to.
        """
        if self._update is None:
            raise RuntimeError("an update is shared once and proven once")
        update, self._update = self._update, None
        seed = tossed(self._commitments, nonces, PROJECTIONS)
        whole = proven(update, self._bits(update, seed), self._statement, os.urandom(SEED))
        return [seed + self._left(whole.flat, PROOF), *(seed for _ in self._seeds)]

    def _refuse(self, update: Grid) -> None:
        if not self._statement.holds(update):
            raise OverBound(f"an update of {len(update)} values of which this is not true: {self._statement}")

    def _bits(self, update: Elements, seed: bytes) -> Elements:
        statement = self._statement
        rows = integers(projected(seed, statement.rows, update)) + statement.interval
        if rows.min() < 0 or rows.max() >= 2 * statement.interval:
            raise OverBound("a random projection of the update is outside the interval; share it anew")
        return self._written(rows, update)

    def _written(self, rows: Grid, update: Elements) -> Elements:
        """Return the bits of projections and of what the squares leave of the bound's."""
        left = minus(constant(self._statement.bound**2), total(times(update, update)))
        slack = bits_of(left.astype(np.int64), self._statement.slack_bits)
        return np.concatenate([bits_of(rows, self._statement.row_bits).ravel(), slack]).astype(np.uint64)

    def _left(self, values: Elements, what: bytes) -> bytes:
        for seed in self._seeds:
            values = minus(values, stream_of(seed, what, len(values)))
        return packed(values)


class Verifier:
    """A server with one upload.

    Parameters
    ----------
    statement : NormBound
        What is to be proven.
    place : int
        Which server: 0 has what is left, the others have seeds.
    """

    def __init__(self, statement: NormBound, place: int) -> None:
        self._statement, self._place = statement, place
        self._coins = {use: Coin(place, use) for use in DRAWS}
        self._commitments: dict[bytes, tuple[bytes, ...]] = {}
        self._seed = self._heard = b""
        self._rows: Elements | None = None
        self._proof: Proof | None = None
        self._point: Point | None = None
        self.share: Elements | None = None

    def commitment(self, use: bytes) -> bytes:
        """Return the commitment to a coin."""
        return self._coins[use].commitment

    def hear(self, use: bytes, commitments: Sequence[bytes]) -> None:
        """Take the commitments of all servers to their coins for a draw, once."""
        if self._commitments.setdefault(use, tuple(commitments)) != tuple(commitments):
            raise BadUpdate("a server commits itself once")

    def take_share(self, content: bytes) -> None:
        """Take the share of the update, once, and after the commitments to what will question it."""
        if self.share is not None or len(self._commitments) < len(DRAWS):
            raise BadUpdate("an update is shared once, and after the servers have committed themselves")
        self.share = self._received(content, UPDATE, self._statement.length)

    def show(self, use: bytes) -> bytes:
        """Return the coin for a draw, once what it questions is there.

        Raises
        ------
        BadUpdate
            It is not: the client could choose what is questioned by the coin.
        """
        if (self.share if use == PROJECTIONS else self._proof) is None:
            raise BadUpdate("a coin is not shown before what it questions is there")
        return self._coins[use].nonce

    def project(self, nonces: Sequence[bytes]) -> None:
        """Calculate the share of the projections that were drawn."""
        assert self.share is not None
        self._seed = tossed(self._commitments[PROJECTIONS], nonces, PROJECTIONS)
        self._rows = projected(self._seed, self._statement.rows, self.share)

    def take_proof(self, content: bytes) -> None:
        """Take the share of the proof, once, for the projections that this server has drawn."""
        told, content = content[:NONCE], content[NONCE:]
        if self._proof is not None or self._rows is None or told != self._seed:
            raise BadUpdate("a proof is for the projections that were drawn for its update, and there once")
        count = proof_length(self._statement)
        flat = stream_of(self._heard, PROOF, count) if self._place else unpacked(content, count)
        self._proof = proof_of(flat, self._statement)

    def opening(self, nonces: Sequence[bytes]) -> bytes:
        """Return what the shares come to at the point that was drawn: wires, polynomials, and what is to be 0."""
        assert self.share is not None and self._proof is not None
        self._point = point = Point.drawn(tossed(self._commitments[POINT], nonces, POINT), self._statement)
        parts = [
            wires_at(point, lines_of(self.share, self._statement.points), self._proof.wire_masks),
            square_at(point, self._proof)[None],
            wires_at(point, self._proof.bits, self._proof.bit_masks),
            bits_at(point, self._proof)[None],
            self._zeros(self._proof),
        ]
        return packed(np.concatenate(parts))

    def judge(self, openings: Sequence[bytes]) -> None:
        """Return if the upload is accepted, given what all servers have sent.

        Raises
        ------
        BadUpdate
            It is refused, for a reason that is the same at all servers.
        """
        assert self._point is not None
        lines, bit_lines = wires(self._statement), bit_wires(self._statement)
        count = lines + bit_lines + self._statement.rows + 3
        opened = np.zeros(count, dtype=np.uint64)
        for one in openings:
            opened = plus(opened, unpacked(one, count))
        ends = np.cumsum([lines, 1, bit_lines, 1])
        line, square, bit, bit_sum, zeros = np.split(opened, ends)
        if total(times(line, line)) != square[0]:
            raise BadUpdate("the squares of its update are not those of its proof")
        if total(times(self._point.factors, minus(times(bit, bit), bit))) != bit_sum[0]:
            raise BadUpdate("what its proof calls bits is something else")
        if zeros[:-1].any():
            raise BadUpdate("a random projection of its update is not the small number that its proof says")
        if zeros[-1]:
            raise BadUpdate("its norm exceeds the bound")

    def _received(self, content: bytes, what: bytes, count: int) -> Elements:
        if not self._place:
            return unpacked(content, count)
        if len(content) != SEED:
            raise BadUpdate(f"a seed of {len(content)} bytes")
        self._heard = content
        return stream_of(content, what, count)

    def _zeros(self, proof: Proof) -> Elements:
        """Return shares of zeros: of projections, and of what the squares leave, the bits less what they are of."""
        statement, flat = self._statement, proof.bits.ravel()
        assert self._rows is not None
        rows = flat[: statement.rows * statement.row_bits].reshape(statement.rows, statement.row_bits)
        slack = flat[rows.size : statement.bits][None]
        squares = total(proof.square_values[1 : statement.points + 1])
        # What is public is one server's to take away.
        first = not self._place
        interval, bound = constant(statement.interval * first), constant(statement.bound**2 * first)
        of_rows = minus(minus(numbers_of(rows), self._rows), interval)
        return np.concatenate([of_rows, minus(plus(numbers_of(slack), squares), bound)])


def summed(shares: Sequence[Elements]) -> Elements:
    """Return one server's share of the sum of accepted updates.

    Raises
    ------
    BadUpdate
        They are too few: the sum of one would show it.
    """
    if len(shares) < LEAST:
        raise BadUpdate(f"a sum of fewer than {LEAST} updates is not opened: it would show one")
    result = shares[0]
    for share in shares[1:]:
        result = plus(result, share)
    return result


def opened(sums: Sequence[Elements]) -> Grid:
    """Return the sum of updates, of what all servers give."""
    result = sums[0]
    for share in sums[1:]:
        result = plus(result, share)
    return integers(result)
