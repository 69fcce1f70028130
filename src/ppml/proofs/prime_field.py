"""Arithmetic modulo the prime 2^61 - 1, on whole arrays.

Elements are numbers below the prime in 64-bit words. A product is put together from halves of 32 bits, and 2^61 is 1
modulo this prime, so that a multiplication by a power of 2 turns the bits round and nothing is ever divided. Matrices
are multiplied in float64, by parts of 21 bits, whose products and their sums stay below 2^53 and so are exact.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.primitives import prg
from ppml.errors import InvalidUpdate

BITS = 61
PRIME: int = 2**BITS - 1

ELEMENT_BYTES = 8
"""Of an element on its way."""

Elements = NDArray[np.uint64]
"""Numbers modulo the prime, each below it."""

_PRIME, _HALF, _LOW = np.uint64(PRIME), np.uint64(32), np.uint64(2**32 - 1)
_LIMB_BITS = 21
_LIMBS = -(-BITS // _LIMB_BITS)
_MAX_EXACT_TERMS = 2 ** (53 - 2 * _LIMB_BITS) // _LIMBS
"""Products of parts that are added in float64: more might not be exact."""

_SPARE = 8
"""Words drawn beyond those that are asked for: one is left out with probability 2^-61."""


def reduce(values: NDArray[np.uint64]) -> Elements:
    """Return 64-bit words modulo the prime."""
    folded = (values & _PRIME) + (values >> np.uint64(BITS))
    return folded - np.where(folded >= _PRIME, _PRIME, np.uint64(0))


def add(left: Elements, right: Elements) -> Elements:
    """Return the sums."""
    return reduce(left + right)


def subtract(left: Elements, right: Elements) -> Elements:
    """Return the differences."""
    return reduce(left + (_PRIME - right))


def multiply(left: Elements, right: Elements) -> Elements:
    """Return the products, element by element.

    Examples
    --------
    >>> int(times(np.uint64(2**60), np.uint64(6))) == 2**60 * 6 % PRIME
    True
    """
    left_high, left_low = left >> _HALF, left & _LOW
    right_high, right_low = right >> _HALF, right & _LOW
    middle = left_high * right_low + left_low * right_high
    low = left_low * right_low
    # The middle stands for 2^32 times as much, of which 2^61 is 1; the high part for 2^64 times as much, which is 8.
    total = (low & _PRIME) + (low >> np.uint64(BITS))
    total += ((middle & np.uint64(2**29 - 1)) << _HALF) + (middle >> np.uint64(29))
    total += (left_high * right_high) << np.uint64(3)
    return reduce(total)


def multiply_by_power_of_two(values: Elements, bits: int) -> Elements:
    """Return ``2^bits`` times the values."""
    places = bits % BITS
    return reduce(((values << np.uint64(places)) & _PRIME) | (values >> np.uint64(BITS - places)))


def total(values: Elements, axis: int | None = None) -> Elements:
    """Return the sum of up to 2^32 elements, or the sums along an axis."""
    high, low = reduce(np.sum(values >> _HALF, axis=axis)), reduce(np.sum(values & _LOW, axis=axis))
    return add(multiply_by_power_of_two(high, 32), low)


def split_limbs(values: Elements) -> NDArray[np.float64]:
    """Return parts of 21 bits each, the lowest first, along a new first axis."""
    mask = np.uint64(2**_LIMB_BITS - 1)
    return np.stack([((values >> np.uint64(_LIMB_BITS * place)) & mask).astype(np.float64) for place in range(_LIMBS)])


def join_limbs(parts: NDArray[np.float64]) -> Elements:
    """Return what parts, along the first axis, come to: integers of up to 53 bits and a sign, each 21 bits further."""
    result = np.zeros(parts.shape[1:], dtype=np.uint64)
    for place, part in enumerate(parts):
        result = add(result, multiply_by_power_of_two(to_elements(part.astype(np.int64)), _LIMB_BITS * place))
    return result


def matrix_product(left: Elements, right: Elements) -> Elements:
    """Return the product of two matrices.

    Raises
    ------
    ValueError
        Their common side is too long for sums in float64 to be exact.
    """
    if left.shape[1] > _MAX_EXACT_TERMS:
        raise ValueError(f"sums of {left.shape[1]} products, of which {_MAX_EXACT_TERMS} are exact")
    columns = right.shape[1]
    beside = np.concatenate(list(split_limbs(right)), axis=1)
    sums = np.zeros((2 * _LIMBS - 1, left.shape[0], columns))
    for place, part in enumerate(split_limbs(left)):
        found = part @ beside
        for other in range(_LIMBS):
            sums[place + other] += found[:, other * columns : (other + 1) * columns]
    return join_limbs(sums)


def element(value: int) -> Elements:
    """Return a number from 0 and below the prime as an element."""
    return np.array(value, dtype=np.uint64)


def to_elements(to_integers: Grid) -> Elements:
    """Return integers between minus the prime and the prime as elements."""
    return np.where(to_integers < 0, to_integers + PRIME, to_integers).astype(np.uint64)


def to_integers(values: Elements) -> Grid:
    """Return elements as the integers of least size that they stand for."""
    signed = values.astype(np.int64)
    return np.where(signed > PRIME // 2, signed - PRIME, signed)


def uniform_elements(seed: bytes, count: int) -> Elements:
    """Return ``count`` uniform elements: a stream under a key that is used once.

    Raises
    ------
    RuntimeError
        More words are no elements than were drawn to spare, as happens to nobody.
    """
    words = prg(seed, count + _SPARE, ELEMENT_BYTES).astype(np.uint64) & _PRIME
    fit = words[words < _PRIME][:count]
    if len(fit) < count:
        raise RuntimeError("too few words of a stream are below the prime")
    return fit


def serialize(values: Elements) -> bytes:
    """Return elements as they travel."""
    return values.astype("<u8").tobytes()


def deserialize(content: bytes, count: int) -> Elements:
    """Return ``count`` elements that came.

    Raises
    ------
    InvalidUpdate
        There are fewer or more, or one is not below the prime.
    """
    if len(content) != count * ELEMENT_BYTES:
        raise InvalidUpdate(f"{len(content)} bytes for {count} numbers of {ELEMENT_BYTES} bytes each")
    values = np.frombuffer(content, dtype="<u8").astype(np.uint64)
    if count and values.max() >= PRIME:
        raise InvalidUpdate("a number that is not below the prime")
    return values


@lru_cache(maxsize=4096)
def _inverse(value: int) -> int:
    return pow(value, -1, PRIME)


def lagrange_weights(count: int, point: int) -> Elements:
    """Return by what the values at 0, 1, ..., ``count`` - 1 are multiplied to give, added, that at ``point``.

    That is of the polynomial of the least degree through them; ``point`` is none of theirs.

    Examples
    --------
    >>> integers(lagrange(3, 3)).tolist()
    [1, -3, 3]
    """
    above = 1
    for node in range(count):
        above = above * (point - node) % PRIME
    below = [1]
    for node in range(1, count):
        below.append(below[-1] * node % PRIME)
    signs = [1 if (count - 1 - node) % 2 == 0 else -1 for node in range(count)]
    found = [
        signs[node] * above * _inverse((point - node) % PRIME) * _inverse(below[node] * below[count - 1 - node] % PRIME)
        for node in range(count)
    ]
    return np.array([value % PRIME for value in found], dtype=np.uint64)
