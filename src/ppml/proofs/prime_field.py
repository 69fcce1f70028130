"""Arithmetic modulo the prime 2^61 - 1 on arrays.

Elements are integers below the prime in 64-bit words. A product is computed from halves of 32 bits. 2^61 is 1 modulo
the prime, so a multiplication by a power of 2 rotates the bits, and no step divides. Matrices are multiplied in float64
by limbs of 21 bits, whose products and sums stay below 2^53 and are exact.
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
"""Bytes of a serialized element."""

Elements = NDArray[np.uint64]
"""Integers modulo the prime, each below it."""

_PRIME, _HALF, _LOW = np.uint64(PRIME), np.uint64(32), np.uint64(2**32 - 1)
_LIMB_BITS = 21
_LIMBS = -(-BITS // _LIMB_BITS)
_MAX_EXACT_TERMS = 2 ** (53 - 2 * _LIMB_BITS) // _LIMBS
"""Products of limbs whose sum in float64 is exact."""

_SPARE = 8
"""Additional pseudorandom words: a word is rejected with probability 2^-61."""


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
    """Return the elementwise products.

    Examples
    --------
    >>> int(multiply(np.uint64(2**60), np.uint64(6))) == 2**60 * 6 % PRIME
    True
    """
    left_high, left_low = left >> _HALF, left & _LOW
    right_high, right_low = right >> _HALF, right & _LOW
    middle = left_high * right_low + left_low * right_high
    low = left_low * right_low
    # The weight of the middle part is 2^32, where 2^61 is 1; the weight of the high part is 2^64, which is 8.
    result = (low & _PRIME) + (low >> np.uint64(BITS))
    result += ((middle & np.uint64(2**29 - 1)) << _HALF) + (middle >> np.uint64(29))
    result += (left_high * right_high) << np.uint64(3)
    return reduce(result)


def multiply_by_power_of_two(values: Elements, exponent: int) -> Elements:
    """Return ``2^exponent`` times the values."""
    shift = exponent % BITS
    return reduce(((values << np.uint64(shift)) & _PRIME) | (values >> np.uint64(BITS - shift)))


def total(values: Elements, axis: int | None = None) -> Elements:
    """Return the sum of up to 2^32 elements, or the sums along an axis."""
    high, low = reduce(np.sum(values >> _HALF, axis=axis)), reduce(np.sum(values & _LOW, axis=axis))
    return add(multiply_by_power_of_two(high, 32), low)


def split_limbs(values: Elements) -> NDArray[np.float64]:
    """Return limbs of 21 bits, the lowest first, along a new first axis."""
    mask = np.uint64(2**_LIMB_BITS - 1)
    shifts = [np.uint64(_LIMB_BITS * index) for index in range(_LIMBS)]
    return np.stack([((values >> shift) & mask).astype(np.float64) for shift in shifts])


def join_limbs(limbs: NDArray[np.float64]) -> Elements:
    """Return elements from limbs along the first axis, signed integers of up to 53 bits with weights ``2^(21 i)``."""
    result = np.zeros(limbs.shape[1:], dtype=np.uint64)
    for index, limb in enumerate(limbs):
        weighted = multiply_by_power_of_two(to_elements(limb.astype(np.int64)), _LIMB_BITS * index)
        result = add(result, weighted)
    return result


def matrix_product(left: Elements, right: Elements) -> Elements:
    """Return the product of two matrices.

    Raises
    ------
    ValueError
        The inner dimension is too large for exact sums in float64.
    """
    if left.shape[1] > _MAX_EXACT_TERMS:
        raise ValueError(f"sums of {left.shape[1]} products, at most {_MAX_EXACT_TERMS} are exact")
    columns = right.shape[1]
    right_limbs = np.concatenate(list(split_limbs(right)), axis=1)
    sums = np.zeros((2 * _LIMBS - 1, left.shape[0], columns))
    for index, limb in enumerate(split_limbs(left)):
        products = limb @ right_limbs
        for other in range(_LIMBS):
            sums[index + other] += products[:, other * columns : (other + 1) * columns]
    return join_limbs(sums)


def element(value: int) -> Elements:
    """Return a nonnegative integer below the prime as an element."""
    return np.array(value, dtype=np.uint64)


def to_elements(integers: Grid) -> Elements:
    """Return integers of absolute value below the prime as elements."""
    return np.where(integers < 0, integers + PRIME, integers).astype(np.uint64)


def to_integers(values: Elements) -> Grid:
    """Return elements as the integers of least absolute value."""
    signed = values.astype(np.int64)
    return np.where(signed > PRIME // 2, signed - PRIME, signed)


def uniform_elements(seed: bytes, count: int) -> Elements:
    """Return ``count`` uniform elements from a seed for one use.

    Raises
    ------
    RuntimeError
        More words are rejected than spare ones were drawn, which has negligible probability.
    """
    words = prg(seed, count + _SPARE, ELEMENT_BYTES).astype(np.uint64) & _PRIME
    accepted = words[words < _PRIME][:count]
    if len(accepted) < count:
        raise RuntimeError("too few pseudorandom words are below the prime")
    return accepted


def serialize(values: Elements) -> bytes:
    """Return elements in their wire format."""
    return values.astype("<u8").tobytes()


def deserialize(content: bytes, count: int) -> Elements:
    """Return the ``count`` elements in a message.

    Raises
    ------
    InvalidUpdate
        The number of elements is another one, or an element is not below the prime.
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
    """Return the weights of the values at 0, 1, ..., ``count`` - 1 in the interpolated value at ``point``.

    The polynomial is the one of least degree; ``point`` is not among 0, 1, ..., ``count`` - 1.

    Examples
    --------
    >>> to_integers(lagrange_weights(3, 3)).tolist()
    [1, -3, 3]
    """
    numerator = 1
    for node in range(count):
        numerator = numerator * (point - node) % PRIME
    factorials = [1]
    for node in range(1, count):
        factorials.append(factorials[-1] * node % PRIME)
    weights = []
    for node in range(count):
        sign = 1 if (count - 1 - node) % 2 == 0 else -1
        denominator = factorials[node] * factorials[count - 1 - node] % PRIME
        weights.append(sign * numerator * _inverse((point - node) % PRIME) * _inverse(denominator) % PRIME)
    return np.array(weights, dtype=np.uint64)
