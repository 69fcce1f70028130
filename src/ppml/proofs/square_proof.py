"""The proof that a sum of squares is what it is said to be, and bits are bits: its polynomials, and what is opened.

A vector is laid out in lines of ``points`` values, padded with zeros. The polynomial of a line, a *wire*, goes through
its values at 1, 2, ..., ``points`` and through a random one at 0. The prover sends

- of the squares, the values at 0, ..., ``2 points`` of the sum of all wires squared: those at 1 to ``points`` add up to
  the sum of squares of the vector;
- of the bits, the values at 0 and from ``points + 1`` of each wire squared less the wire: at 1 to ``points`` it is 0.

Whoever has shares of vector and proof has, without a word to anybody, shares of all these polynomials at a random
point. They are opened: the wires there, which are uniform by their random values, and what follows from these. Two
polynomials of degree ``2 points`` that differ agree at so many points of the field at most. This is a fully linear
proof of Boneh, Boyle, Corrigan-Gibbs, Gilboa and Ishai (CRYPTO 2019, ePrint 2019/188), with squares as its only
gates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cache

import numpy as np

from ppml.aggregation.fixed_point import Grid
from ppml.proofs.norm_bound import NormBound
from ppml.proofs.prime_field import PRIME, Elements, uniform_elements, lagrange_weights, subtract, add, matrix_product, multiply, total

_LINES = 256
"""Wires that are squared at once."""


@dataclass(frozen=True)
class Proof:
    """A proof, or a share of one.

    Parameters
    ----------
    bits : array
        Of the projections, each with the interval added, then of what the squares leave of the bound's; in lines.
    bit_masks, wire_masks : array
        What the wires go through at 0.
    bit_values : array
        A line for each line of bits: what is sent of its polynomial.
    square_values : array
        Of the squares.
    """

    bits: Elements
    bit_masks: Elements
    wire_masks: Elements
    bit_values: Elements
    square_values: Elements

    @property
    def flat(self) -> Elements:
        """All of it in one vector, in the order in which it travels."""
        return np.concatenate([getattr(self, field.name).ravel() for field in fields(self)])


def wire_count(statement: NormBound) -> int:
    """Return how many lines an update has."""
    return -(-statement.length // statement.points)


def bit_wire_count(statement: NormBound) -> int:
    """Return how many lines the bits have."""
    return -(-statement.bits // statement.points)


def to_bits(values: Grid, count: int) -> Grid:
    """Return the ``count`` lowest bits of each value, the lowest first."""
    return (values[..., None] >> np.arange(count)) & 1


def from_bits(bits: Elements) -> Elements:
    """Return the numbers whose bits, or shares of them, are in lines."""
    powers = np.array([1 << place for place in range(bits.shape[1])], dtype=np.uint64)
    return matrix_product(bits, powers[:, None])[:, 0]


def _shapes(statement: NormBound) -> list[tuple[int, ...]]:
    points, lines = statement.points, bit_wire_count(statement)
    return [(lines, points), (lines,), (wire_count(statement),), (lines, points + 1), (2 * points + 1,)]


def proof_length(statement: NormBound) -> int:
    """Return how many elements a proof takes."""
    return sum(int(np.prod(shape)) for shape in _shapes(statement))


def parse_proof(flat: Elements, statement: NormBound) -> Proof:
    """Return the proof that travels as ``flat``."""
    ends = np.cumsum([int(np.prod(shape)) for shape in _shapes(statement)])
    parts = np.split(flat, ends[:-1])
    return Proof(*(part.reshape(shape) for part, shape in zip(parts, _shapes(statement), strict=True)))


def to_lines(values: Elements, points: int) -> Elements:
    """Return a vector in lines, the last padded with zeros."""
    padded = np.zeros(-(-len(values) // points) * points, dtype=np.uint64)
    padded[: len(values)] = values
    return padded.reshape(-1, points)


@cache
def _extension(points: int) -> Elements:
    """Return the matrix that takes values at 0 to ``points`` to those at ``points + 1`` to ``2 points``."""
    return np.stack([lagrange_weights(points + 1, point) for point in range(points + 1, 2 * points + 1)], axis=1)


def _extend(lines: Elements, masks: Elements) -> Elements:
    """Return the values of wires at 0 to twice the points, a line each."""
    known = np.concatenate([masks[:, None], lines], axis=1)
    return np.concatenate([known, matrix_product(known, _extension(lines.shape[1]))], axis=1)


def prove(update: Elements, bits: Elements, statement: NormBound, seed: bytes) -> Proof:
    """Return the proof for an update and its bits; masks are drawn from ``seed``, which is used for nothing else."""
    points = statement.points
    update_lines, bit_lines = to_lines(update, points), to_lines(bits, points)
    masks = uniform_elements(seed, len(update_lines) + len(bit_lines))
    wire_masks, bit_masks = masks[: len(update_lines)], masks[len(update_lines) :]
    squares = np.zeros(2 * points + 1, dtype=np.uint64)
    for start in range(0, len(update_lines), _LINES):
        chosen = slice(start, start + _LINES)
        values = _extend(update_lines[chosen], wire_masks[chosen])
        squares = add(squares, total(multiply(values, values), axis=0))
    values = _extend(bit_lines, bit_masks)
    differences = subtract(multiply(values, values), values)
    return Proof(bit_lines, bit_masks, wire_masks, np.delete(differences, np.s_[1 : points + 1], axis=1), squares)


@dataclass(frozen=True)
class Point:
    """Where polynomials are looked at, and by what those of the bits are multiplied before they are added.

    Parameters
    ----------
    narrow, wide : array
        What takes the values of a wire, and of a wire squared, to the value at the point.
    factors : array
        A random one for each line of bits.
    """

    narrow: Elements
    wide: Elements
    factors: Elements

    @classmethod
    def uniform_elements(cls, seed: bytes, statement: NormBound) -> Point:
        """Return a uniform one among those where no polynomial was given."""
        points, number = statement.points, 0
        while True:
            key = hashlib.sha256(b"ppml point" + number.to_bytes(8, "little") + seed).digest()
            found = uniform_elements(key, 1 + bit_wire_count(statement))
            if 2 * points < int(found[0]) < PRIME:
                break
            number += 1
        place = int(found[0])
        return cls(lagrange_weights(points + 1, place), lagrange_weights(2 * points + 1, place), found[1:])


def wires_at(point: Point, lines: Elements, masks: Elements) -> Elements:
    """Return the wires' values at a point."""
    return add(matrix_product(lines, point.narrow[1:, None])[:, 0], multiply(masks, point.narrow[0]))


def square_at(point: Point, proof: Proof) -> Elements:
    """Return what the proof says that the sum of all wires squared is at a point."""
    return total(multiply(proof.square_values, point.wide))


def bits_at(point: Point, proof: Proof) -> Elements:
    """Return what the proof says that the polynomials of the bits are at a point, added with the point's factors."""
    points = proof.bits.shape[1]
    weights = np.delete(point.wide, np.s_[1 : points + 1])
    return total(multiply(matrix_product(proof.bit_values, weights[:, None])[:, 0], point.factors))
