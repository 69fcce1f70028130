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
from ppml.aggregation.secret_sharing import MIN_CLIENTS
from ppml.errors import InvalidUpdate
from ppml.proofs.coin_tossing import NONCE_BYTES, CoinCommitment, joint_coin
from ppml.proofs.norm_bound import NormBound
from ppml.proofs.prime_field import (
    Elements,
    element,
    uniform_elements,
    to_elements,
    to_integers,
    subtract,
    serialize,
    add,
    multiply,
    total,
    deserialize,
)
from ppml.proofs.projection import project
from ppml.proofs.square_proof import (
    Point,
    Proof,
    bit_wire_count,
    bits_at,
    to_bits,
    to_lines,
    from_bits,
    proof_length,
    parse_proof,
    prove,
    square_at,
    wire_count,
    wires_at,
)

DRAWS = PROJECTIONS, POINT = b"projections", b"point"
"""What the servers draw together."""

UPDATE, PROOF = b"update", b"proof"
"""What is shared."""

SEED_BYTES = 32


def expand_share(seed: bytes, what: bytes, count: int) -> Elements:
    """Return the share that a seed stands for."""
    return uniform_elements(hashlib.sha256(b"ppml share" + what + seed).digest(), count)


class UnprovableUpdate(ValueError):
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
        self._seeds = [os.urandom(SEED_BYTES) for _ in self._commitments[1:]]
        self._update: Elements | None = None

    def shares(self, update: Grid) -> list[bytes]:
        """Return what each server gets: the first what is left of the update, the others a seed."""
        if self._update is not None:
            raise RuntimeError("seeds serve one update")
        self._refuse(update)
        self._update = to_elements(update)
        return [self._left(self._update, UPDATE), *self._seeds]

    def proof(self, nonces: Sequence[bytes]) -> list[bytes]:
        """Return what each server gets, once all have shown their first coins.

        Raises
        ------
        UnprovableUpdate
            A projection is outside the interval.
        InvalidUpdate
            A server shows another coin than it committed itself to.
        """
        if self._update is None:
            raise RuntimeError("an update is shared once and proven once")
        update, self._update = self._update, None
        seed = joint_coin(self._commitments, nonces, PROJECTIONS)
        whole = prove(update, self._bits(update, seed), self._statement, os.urandom(SEED_BYTES))
        return [seed + self._left(whole.flat, PROOF), *(seed for _ in self._seeds)]

    def _refuse(self, update: Grid) -> None:
        if not self._statement.holds(update):
            raise UnprovableUpdate(f"an update of {len(update)} values of which this is not true: {self._statement}")

    def _bits(self, update: Elements, seed: bytes) -> Elements:
        statement = self._statement
        rows = to_integers(project(seed, statement.rows, update)) + statement.interval
        if rows.min() < 0 or rows.max() >= 2 * statement.interval:
            raise UnprovableUpdate("a random projection of the update is outside the interval; share it anew")
        return self._written(rows, update)

    def _written(self, rows: Grid, update: Elements) -> Elements:
        """Return the bits of projections and of what the squares leave of the bound's."""
        left = subtract(element(self._statement.bound**2), total(multiply(update, update)))
        slack = to_bits(left.astype(np.int64), self._statement.slack_bits)
        return np.concatenate([to_bits(rows, self._statement.row_bits).ravel(), slack]).astype(np.uint64)

    def _left(self, values: Elements, what: bytes) -> bytes:
        for seed in self._seeds:
            values = subtract(values, expand_share(seed, what, len(values)))
        return serialize(values)


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
        self._coins = {use: CoinCommitment(place, use) for use in DRAWS}
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
            raise InvalidUpdate("a server commits itself once")

    def take_share(self, content: bytes) -> None:
        """Take the share of the update, once, and after the commitments to what will question it."""
        if self.share is not None or len(self._commitments) < len(DRAWS):
            raise InvalidUpdate("an update is shared once, and after the servers have committed themselves")
        self.share = self._received(content, UPDATE, self._statement.length)

    def show(self, use: bytes) -> bytes:
        """Return the coin for a draw, once what it questions is there.

        Raises
        ------
        InvalidUpdate
            It is not: the client could choose what is questioned by the coin.
        """
        if (self.share if use == PROJECTIONS else self._proof) is None:
            raise InvalidUpdate("a coin is not shown before what it questions is there")
        return self._coins[use].nonce

    def project(self, nonces: Sequence[bytes]) -> None:
        """Calculate the share of the projections that were drawn."""
        assert self.share is not None
        self._seed = joint_coin(self._commitments[PROJECTIONS], nonces, PROJECTIONS)
        self._rows = project(self._seed, self._statement.rows, self.share)

    def take_proof(self, content: bytes) -> None:
        """Take the share of the proof, once, for the projections that this server has drawn."""
        told, content = content[:NONCE_BYTES], content[NONCE_BYTES:]
        if self._proof is not None or self._rows is None or told != self._seed:
            raise InvalidUpdate("a proof is for the projections that were drawn for its update, and there once")
        count = proof_length(self._statement)
        flat = expand_share(self._heard, PROOF, count) if self._place else deserialize(content, count)
        self._proof = parse_proof(flat, self._statement)

    def opening(self, nonces: Sequence[bytes]) -> bytes:
        """Return what the shares come to at the point that was drawn: wires, polynomials, and what is to be 0."""
        assert self.share is not None and self._proof is not None
        self._point = point = Point.drawn(joint_coin(self._commitments[POINT], nonces, POINT), self._statement)
        parts = [
            wires_at(point, to_lines(self.share, self._statement.points), self._proof.wire_masks),
            square_at(point, self._proof)[None],
            wires_at(point, self._proof.bits, self._proof.bit_masks),
            bits_at(point, self._proof)[None],
            self._zeros(self._proof),
        ]
        return serialize(np.concatenate(parts))

    def judge(self, openings: Sequence[bytes]) -> None:
        """Return if the upload is accepted, given what all servers have sent.

        Raises
        ------
        InvalidUpdate
            It is refused, for a reason that is the same at all servers.
        """
        assert self._point is not None
        lines, bit_lines = wire_count(self._statement), bit_wire_count(self._statement)
        count = lines + bit_lines + self._statement.rows + 3
        reveal_sum = np.zeros(count, dtype=np.uint64)
        for one in openings:
            reveal_sum = add(reveal_sum, deserialize(one, count))
        ends = np.cumsum([lines, 1, bit_lines, 1])
        line, square, bit, bit_sum, zeros = np.split(reveal_sum, ends)
        if total(multiply(line, line)) != square[0]:
            raise InvalidUpdate("the squares of its update are not those of its proof")
        if total(multiply(self._point.factors, subtract(multiply(bit, bit), bit))) != bit_sum[0]:
            raise InvalidUpdate("what its proof calls bits is something else")
        if zeros[:-1].any():
            raise InvalidUpdate("a random projection of its update is not the small number that its proof says")
        if zeros[-1]:
            raise InvalidUpdate("its norm exceeds the bound")

    def _received(self, content: bytes, what: bytes, count: int) -> Elements:
        if not self._place:
            return deserialize(content, count)
        if len(content) != SEED_BYTES:
            raise InvalidUpdate(f"a seed of {len(content)} bytes")
        self._heard = content
        return expand_share(content, what, count)

    def _zeros(self, proof: Proof) -> Elements:
        """Return shares of zeros: of projections, and of what the squares leave, the bits less what they are of."""
        statement, flat = self._statement, proof.bits.ravel()
        assert self._rows is not None
        rows = flat[: statement.rows * statement.row_bits].reshape(statement.rows, statement.row_bits)
        slack = flat[rows.size : statement.bits][None]
        squares = total(proof.square_values[1 : statement.points + 1])
        # What is public is one server's to take away.
        first = not self._place
        interval, bound = element(statement.interval * first), element(statement.bound**2 * first)
        of_rows = subtract(subtract(from_bits(rows), self._rows), interval)
        return np.concatenate([of_rows, subtract(add(from_bits(slack), squares), bound)])


def sum_shares(shares: Sequence[Elements]) -> Elements:
    """Return one server's share of the sum of accepted updates.

    Raises
    ------
    InvalidUpdate
        They are too few: the sum of one would show it.
    """
    if len(shares) < MIN_CLIENTS:
        raise InvalidUpdate(f"a sum of fewer than {MIN_CLIENTS} updates is not opened: it would show one")
    result = shares[0]
    for share in shares[1:]:
        result = add(result, share)
    return result


def reveal_sum(sums: Sequence[Elements]) -> Grid:
    """Return the sum of updates, of what all servers give."""
    result = sums[0]
    for share in sums[1:]:
        result = add(result, share)
    return to_integers(result)
