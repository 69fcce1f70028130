"""The proof of a sum of squares, and of bits: its polynomials, and their evaluation at a random point.

A vector is laid out in rows of ``points`` values, padded with zeros. The polynomial of a row, a *wire*, interpolates
its values at 1, 2, ..., ``points`` and a random value at 0. The prover sends

- for squares, the values at 0, ..., ``2 points`` of the sum of all squared wires: those at 1 to ``points`` add up to
  the sum of squares of the vector;
- for bits, the values at 0 and from ``points + 1`` of each squared wire minus the wire: at 1 to ``points`` it is 0.

A server with shares of vector and proof computes its shares of all these polynomials at a random point without any
communication. The servers open the wires at that point, which their random values make uniform, and values that follow
from them. Two different polynomials of degree ``2 points`` agree at no more than ``2 points`` points of the field. This
is a fully linear proof of Boneh, Boyle, Corrigan-Gibbs, Gilboa and Ishai (CRYPTO 2019, ePrint 2019/188), with squares
as its only gates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cache

import numpy as np

from ppml.aggregation.fixed_point import Grid
from ppml.proofs.norm_bound import NormBound
from ppml.proofs.prime_field import (
    PRIME,
    Elements,
    add,
    lagrange_weights,
    matrix_product,
    multiply,
    subtract,
    total,
    uniform_elements,
)

_WIRES_PER_BLOCK = 256
"""Wires that are squared in one block."""


@dataclass(frozen=True)
class Proof:
    """A proof, or a share of one.

    Parameters
    ----------
    bits : array
        Bits of the projections, each plus the interval, then of the slack of the squares, in rows.
    bit_masks, wire_masks : array
        Values of the wires at 0.
    bit_values : array
        Values of the bit polynomials, one row per row of bits.
    square_values : array
        Values of the sum of squared wires.
    """

    bits: Elements
    bit_masks: Elements
    wire_masks: Elements
    bit_values: Elements
    square_values: Elements

    @property
    def flat(self) -> Elements:
        """All elements in one vector, in wire order."""
        return np.concatenate([getattr(self, field.name).ravel() for field in fields(self)])


def wire_count(statement: NormBound) -> int:
    """Return the number of wires of an update."""
    return -(-statement.length // statement.points)


def bit_wire_count(statement: NormBound) -> int:
    """Return the number of wires of the bits."""
    return -(-statement.bits // statement.points)


def to_bits(values: Grid, count: int) -> Grid:
    """Return the ``count`` lowest bits of each value, the lowest first."""
    return (values[..., None] >> np.arange(count)) & 1


def from_bits(bits: Elements) -> Elements:
    """Return the numbers of rows of bits, or shares of the numbers for shares of the bits."""
    powers = np.array([1 << exponent for exponent in range(bits.shape[1])], dtype=np.uint64)
    return matrix_product(bits, powers[:, None])[:, 0]


def _shapes(statement: NormBound) -> list[tuple[int, ...]]:
    points, rows = statement.points, bit_wire_count(statement)
    return [(rows, points), (rows,), (wire_count(statement),), (rows, points + 1), (2 * points + 1,)]


def proof_length(statement: NormBound) -> int:
    """Return the number of elements of a proof."""
    return sum(int(np.prod(shape)) for shape in _shapes(statement))


def parse_proof(flat: Elements, statement: NormBound) -> Proof:
    """Return the proof of a flat vector; see :attr:`Proof.flat`."""
    ends = np.cumsum([int(np.prod(shape)) for shape in _shapes(statement)])
    parts = np.split(flat, ends[:-1])
    return Proof(*(part.reshape(shape) for part, shape in zip(parts, _shapes(statement), strict=True)))


def to_rows(values: Elements, points: int) -> Elements:
    """Return a vector as rows, the last one padded with zeros."""
    padded = np.zeros(-(-len(values) // points) * points, dtype=np.uint64)
    padded[: len(values)] = values
    return padded.reshape(-1, points)


@cache
def _extension(points: int) -> Elements:
    """Return the matrix from values at 0 to ``points`` to those at ``points + 1`` to ``2 points``."""
    return np.stack([lagrange_weights(points + 1, point) for point in range(points + 1, 2 * points + 1)], axis=1)


def _extend(rows: Elements, masks: Elements) -> Elements:
    """Return the values of wires at 0 to twice the points, one row per wire."""
    known = np.concatenate([masks[:, None], rows], axis=1)
    return np.concatenate([known, matrix_product(known, _extension(rows.shape[1]))], axis=1)


def prove(update: Elements, bits: Elements, statement: NormBound, seed: bytes) -> Proof:
    """Return the proof for an update and its bits, with masks from ``seed``, which has no other use."""
    points = statement.points
    update_rows, bit_rows = to_rows(update, points), to_rows(bits, points)
    masks = uniform_elements(seed, len(update_rows) + len(bit_rows))
    wire_masks, bit_masks = masks[: len(update_rows)], masks[len(update_rows) :]
    squares = np.zeros(2 * points + 1, dtype=np.uint64)
    for start in range(0, len(update_rows), _WIRES_PER_BLOCK):
        block = slice(start, start + _WIRES_PER_BLOCK)
        values = _extend(update_rows[block], wire_masks[block])
        squares = add(squares, total(multiply(values, values), axis=0))
    values = _extend(bit_rows, bit_masks)
    differences = subtract(multiply(values, values), values)
    return Proof(bit_rows, bit_masks, wire_masks, np.delete(differences, np.s_[1 : points + 1], axis=1), squares)


@dataclass(frozen=True)
class Point:
    """A random point of evaluation, and random factors of the bit polynomials.

    Parameters
    ----------
    narrow, wide : array
        Interpolation weights at the point, for the values of a wire and of a squared wire.
    factors : array
        One random factor per row of bits.
    """

    narrow: Elements
    wide: Elements
    factors: Elements

    @classmethod
    def sample(cls, seed: bytes, statement: NormBound) -> Point:
        """Return a uniform point outside of the interpolation nodes."""
        points, number = statement.points, 0
        while True:
            key = hashlib.sha256(b"ppml point" + number.to_bytes(8, "little") + seed).digest()
            found = uniform_elements(key, 1 + bit_wire_count(statement))
            if 2 * points < int(found[0]) < PRIME:
                break
            number += 1
        point = int(found[0])
        return cls(lagrange_weights(points + 1, point), lagrange_weights(2 * points + 1, point), found[1:])


def wires_at(point: Point, rows: Elements, masks: Elements) -> Elements:
    """Return the values of wires at a point."""
    return add(matrix_product(rows, point.narrow[1:, None])[:, 0], multiply(masks, point.narrow[0]))


def square_at(point: Point, proof: Proof) -> Elements:
    """Return the proof's sum of squared wires at a point."""
    return total(multiply(proof.square_values, point.wide))


def bits_at(point: Point, proof: Proof) -> Elements:
    """Return the proof's bit polynomials at a point, as a sum with the point's factors."""
    points = proof.bits.shape[1]
    weights = np.delete(point.wide, np.s_[1 : points + 1])
    return total(multiply(matrix_product(proof.bit_values, weights[:, None])[:, 0], point.factors))
