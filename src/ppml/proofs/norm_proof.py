"""A norm bound that servers verify on secret-shared updates: a demonstration that no ``aggregation`` configures.

An update is shared between servers as in :mod:`ppml.aggregation.secret_sharing`, but modulo a prime of 61 bits.
The servers see no update, and yet refuse an update whose norm exceeds a bound. :mod:`ppml.proofs.norm_bound` has the
statement, and the reason why no square wraps around; :mod:`ppml.proofs.square_proof` has the proof of squares and bits.
The construction is close to PINE (Rothblum, Omri, Chen and Talwar, arXiv 2311.10237), with coins of the servers in
place of a hash of the client's messages. An upload has these steps:

1. Every server commits to two coins, towards all other servers and the client.
2. The client shares its update. A server with its share reveals its first coin.
3. All first coins determine the projections. The client shares their bits and the proof, and tells each server the
   seed of its projections: a server with another seed opens nothing.
4. A server with its share of the proof reveals its second coin. All second coins determine a point.
5. Every server sends its shares of the polynomials at that point. Their sums are the wires, which are uniform, two
   values that follow from them, and zeros. In all other cases all servers refuse the upload.

*Soundness.* A client that has shared an update of a larger norm is accepted with probability at most
:attr:`~ppml.proofs.norm_bound.NormBound.soundness_error`, below 2^-52 per upload, for any messages and any computing
time: each coin is revealed after the values that it tests are fixed. (SHA-256 and AES-256, which expand the coins, are
assumed to be indistinguishable from random.) Servers follow the protocol; a deviating server can have any upload
accepted or refused.

*Zero knowledge.* A coalition of all servers but one, with arbitrary deviations, learns nothing about an honest client's
update except its acceptance, or a refusal that the coalition caused: its shares are streams, or the remainder of one
that it does not have, and the last server's messages follow from these and uniform values. A client with a projection
outside of the interval must stop, which reveals something about its update, with probability below 2^-44.

Training does not use the proof, because it needs more than an arm has: a meaningful bound, a message of the client
between two coins in each round, and eight bytes per value instead of four. Channels are assumed to be authentic and
private, as encryption and signatures of the seeds make them in :mod:`ppml.aggregation.secret_sharing`.
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
    add,
    deserialize,
    element,
    multiply,
    serialize,
    subtract,
    to_elements,
    to_integers,
    total,
    uniform_elements,
)
from ppml.proofs.projection import project
from ppml.proofs.square_proof import (
    Point,
    Proof,
    bit_wire_count,
    bits_at,
    from_bits,
    parse_proof,
    proof_length,
    prove,
    square_at,
    to_bits,
    to_rows,
    wire_count,
    wires_at,
)

COINS = PROJECTIONS, POINT = b"projections", b"point"
"""Uses of the joint coins."""

UPDATE, PROOF = b"update", b"proof"
"""Shared values."""

SEED_BYTES = 32


def expand_share(seed: bytes, what: bytes, count: int) -> Elements:
    """Return the share of ``count`` elements that a seed represents."""
    return uniform_elements(hashlib.sha256(b"ppml share" + what + seed).digest(), count)


class UnprovableUpdate(ValueError):
    """An update that cannot be proven."""


class Prover:
    """A client with one upload.

    Parameters
    ----------
    statement : NormBound
        The statement to prove.
    commitments : sequence of bytes
        All servers' commitments to their first coins, which the client needs before it shares anything.
    """

    def __init__(self, statement: NormBound, commitments: Sequence[bytes]) -> None:
        self._statement, self._commitments = statement, tuple(commitments)
        self._seeds = [os.urandom(SEED_BYTES) for _ in self._commitments[1:]]
        self._update: Elements | None = None

    def shares(self, update: Grid) -> list[bytes]:
        """Return the shares of an update: the remainder for the first server, a seed for each other one."""
        if self._update is not None:
            raise RuntimeError("seeds serve one update")
        self._require_statement(update)
        self._update = to_elements(update)
        return [self._remainder(self._update, UPDATE), *self._seeds]

    def proof(self, nonces: Sequence[bytes]) -> list[bytes]:
        """Return the shares of the proof, after all servers have revealed their first coins.

        Raises
        ------
        UnprovableUpdate
            A projection is outside of the interval.
        InvalidUpdate
            A coin does not match its commitment.
        """
        if self._update is None:
            raise RuntimeError("an update is shared once and proven once")
        update, self._update = self._update, None
        seed = joint_coin(self._commitments, nonces, PROJECTIONS)
        proof = prove(update, self._bits(update, seed), self._statement, os.urandom(SEED_BYTES))
        return [seed + self._remainder(proof.flat, PROOF), *(seed for _ in self._seeds)]

    def _require_statement(self, update: Grid) -> None:
        if not self._statement.holds(update):
            raise UnprovableUpdate(f"the statement is false for an update of {len(update)} values: {self._statement}")

    def _bits(self, update: Elements, seed: bytes) -> Elements:
        statement = self._statement
        rows = to_integers(project(seed, statement.rows, update)) + statement.interval
        if rows.min() < 0 or rows.max() >= 2 * statement.interval:
            raise UnprovableUpdate("a random projection of the update is outside of the interval; share it anew")
        return self._encode_bits(rows, update)

    def _encode_bits(self, rows: Grid, update: Elements) -> Elements:
        """Return the bits of the projections, and of the slack of the squares."""
        slack = subtract(element(self._statement.bound**2), total(multiply(update, update)))
        slack_bits = to_bits(slack.astype(np.int64), self._statement.slack_bits)
        return np.concatenate([to_bits(rows, self._statement.row_bits).ravel(), slack_bits]).astype(np.uint64)

    def _remainder(self, values: Elements, what: bytes) -> bytes:
        for seed in self._seeds:
            values = subtract(values, expand_share(seed, what, len(values)))
        return serialize(values)


class Verifier:
    """A server with one upload.

    Parameters
    ----------
    statement : NormBound
        The statement to verify.
    index : int
        Index of the server: 0 has the remainder, the others have seeds.
    """

    def __init__(self, statement: NormBound, index: int) -> None:
        self._statement, self._index = statement, index
        self._coins = {use: CoinCommitment(index, use) for use in COINS}
        self._commitments: dict[bytes, tuple[bytes, ...]] = {}
        self._projection_seed = self._share_seed = b""
        self._rows: Elements | None = None
        self._proof: Proof | None = None
        self._point: Point | None = None
        self.share: Elements | None = None

    def commitment(self, use: bytes) -> bytes:
        """Return the commitment to a coin."""
        return self._coins[use].commitment

    def receive_commitments(self, use: bytes, commitments: Sequence[bytes]) -> None:
        """Store the commitments of all servers to a coin, once."""
        if self._commitments.setdefault(use, tuple(commitments)) != tuple(commitments):
            raise InvalidUpdate("a server commits to a coin once")

    def receive_share(self, content: bytes) -> None:
        """Store the share of the update, once, and after the commitments to the coins that test it."""
        if self.share is not None or len(self._commitments) < len(COINS):
            raise InvalidUpdate("an update is shared once, and after the servers' commitments")
        self.share = self._parse_share(content, UPDATE, self._statement.length)

    def reveal_coin(self, use: bytes) -> bytes:
        """Return the nonce of a coin, after the values that it tests have arrived.

        Raises
        ------
        InvalidUpdate
            The values are missing: the client could choose them with knowledge of the coin.
        """
        if (self.share if use == PROJECTIONS else self._proof) is None:
            raise InvalidUpdate("a coin is not revealed before the values that it tests have arrived")
        return self._coins[use].nonce

    def project(self, nonces: Sequence[bytes]) -> None:
        """Compute the share of the random projections."""
        assert self.share is not None
        self._projection_seed = joint_coin(self._commitments[PROJECTIONS], nonces, PROJECTIONS)
        self._rows = project(self._projection_seed, self._statement.rows, self.share)

    def receive_proof(self, content: bytes) -> None:
        """Store the share of the proof, once, for the projections of this server."""
        seed, content = content[:NONCE_BYTES], content[NONCE_BYTES:]
        if self._proof is not None or self._rows is None or seed != self._projection_seed:
            raise InvalidUpdate("a proof is for the projections of its update, and sent once")
        count = proof_length(self._statement)
        flat = expand_share(self._share_seed, PROOF, count) if self._index else deserialize(content, count)
        self._proof = parse_proof(flat, self._statement)

    def opening(self, nonces: Sequence[bytes]) -> bytes:
        """Return this server's shares at the random point: wires, polynomials, and values that must be 0."""
        assert self.share is not None and self._proof is not None
        self._point = point = Point.sample(joint_coin(self._commitments[POINT], nonces, POINT), self._statement)
        parts = [
            wires_at(point, to_rows(self.share, self._statement.points), self._proof.wire_masks),
            square_at(point, self._proof)[None],
            wires_at(point, self._proof.bits, self._proof.bit_masks),
            bits_at(point, self._proof)[None],
            self._zeros(self._proof),
        ]
        return serialize(np.concatenate(parts))

    def verify(self, openings: Sequence[bytes]) -> None:
        """Accept the upload, given the openings of all servers.

        Raises
        ------
        InvalidUpdate
            The upload is refused, for the same reason at all servers.
        """
        assert self._point is not None
        wires, bit_wires = wire_count(self._statement), bit_wire_count(self._statement)
        count = wires + bit_wires + self._statement.rows + 3
        opened = np.zeros(count, dtype=np.uint64)
        for opening in openings:
            opened = add(opened, deserialize(opening, count))
        ends = np.cumsum([wires, 1, bit_wires, 1])
        wire, square, bit, bit_sum, zeros = np.split(opened, ends)
        if total(multiply(wire, wire)) != square[0]:
            raise InvalidUpdate("the squares of the update differ from those of the proof")
        if total(multiply(self._point.factors, subtract(multiply(bit, bit), bit))) != bit_sum[0]:
            raise InvalidUpdate("the bits of the proof are not 0 or 1")
        if zeros[:-1].any():
            raise InvalidUpdate("a random projection of the update differs from that of the proof")
        if zeros[-1]:
            raise InvalidUpdate("the norm of the update exceeds the bound")

    def _parse_share(self, content: bytes, what: bytes, count: int) -> Elements:
        if not self._index:
            return deserialize(content, count)
        if len(content) != SEED_BYTES:
            raise InvalidUpdate(f"a seed of {len(content)} bytes")
        self._share_seed = content
        return expand_share(content, what, count)

    def _zeros(self, proof: Proof) -> Elements:
        """Return shares of zeros: the numbers of the bits minus the projections, and minus the slack."""
        statement, flat = self._statement, proof.bits.ravel()
        assert self._rows is not None
        rows = flat[: statement.rows * statement.row_bits].reshape(statement.rows, statement.row_bits)
        slack = flat[rows.size : statement.bits][None]
        squares = total(proof.square_values[1 : statement.points + 1])
        # One server subtracts the public constants.
        first = not self._index
        interval, bound = element(statement.interval * first), element(statement.bound**2 * first)
        of_rows = subtract(subtract(from_bits(rows), self._rows), interval)
        return np.concatenate([of_rows, subtract(add(from_bits(slack), squares), bound)])


def sum_shares(shares: Sequence[Elements]) -> Elements:
    """Return one server's share of the sum of accepted updates.

    Raises
    ------
    InvalidUpdate
        The updates are too few: the sum of one would reveal it.
    """
    if len(shares) < MIN_CLIENTS:
        raise InvalidUpdate(f"a sum of fewer than {MIN_CLIENTS} updates would reveal one")
    result = shares[0]
    for share in shares[1:]:
        result = add(result, share)
    return result


def reveal_sum(sums: Sequence[Elements]) -> Grid:
    """Return the sum of updates from the sums of all servers' shares."""
    result = sums[0]
    for share in sums[1:]:
        result = add(result, share)
    return to_integers(result)
