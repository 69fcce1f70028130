"""Shamir's secret sharing (CACM 1979), with shares that can be verified.

The dealer publishes a point for each share: the multiple of the base point by the share (Feldman, FOCS 1987). One
random word of the dual code tests that all points of a dealer belong to shares of one secret (SCRAPE: Cascudo and
David, ACNS 2017, ePrint 2017/216). The recipient of a wrong share, and every later verifier, detects it. The points of
the shares of a random secret reveal no more than the point of the secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, reduce

from ppml.aggregation.group import ELEMENT_BYTES, ORDER, add_points, base_multiple, encode_scalar, scalar_multiple

SECRET_INDEX = 0
"""The argument at which the polynomial has the secret itself."""


def split(secret: bytes, indices: Sequence[int], threshold: int) -> dict[int, bytes]:
    """Return a share of ``secret`` for each of ``indices``: the values of a random polynomial.

    Parameters
    ----------
    secret : bytes
        Scalar.
    indices : sequence of int
        Distinct positive integers.
    threshold : int
        Number of shares that determine the secret.

    Raises
    ------
    ValueError
        The secret is too large, or the indices are not positive, not distinct or too few.

    Examples
    --------
    >>> shares = split(bytes(30) + b"x" + bytes(1), [1, 2, 3, 4], threshold=3)
    >>> combine({index: shares[index] for index in (1, 2, 4)}, threshold=3) == bytes(30) + b"x" + bytes(1)
    True
    """
    value = int.from_bytes(secret, "little")
    if len(secret) != ELEMENT_BYTES or value >= ORDER:
        raise ValueError("a secret has 32 bytes and is below the order of the group")
    if min(indices) < 1 or len(set(indices)) < len(indices) or not 1 <= threshold <= len(indices):
        raise ValueError(
            f"threshold {threshold} with indices {list(indices)}: indices are distinct, positive and at least as many "
            "as the threshold"
        )
    # The secret is the constant term.
    polynomial = [value, *_random(threshold - 1)]
    return {index: encode_scalar(_evaluate(polynomial, index)) for index in indices}


def _random(count: int) -> list[int]:
    return [secrets.randbelow(ORDER) for _ in range(count)]


def _evaluate(polynomial: Sequence[int], argument: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * argument + coefficient) % ORDER
    return value


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret of ``shares``, by Lagrange interpolation at 0.

    Raises
    ------
    ValueError
        The shares are fewer than the threshold.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, at least {threshold} are needed")
    chosen = tuple(sorted(shares)[:threshold])
    value = 0
    for index, inverse in _inverses(chosen).items():
        numerator = _product(-other for other in chosen if other != index)
        value += int.from_bytes(shares[index], "little") * numerator * inverse
    return encode_scalar(value)


def _product(numbers: Iterable[int]) -> int:
    value = 1
    for number in numbers:
        value = value * number % ORDER
    return value


@lru_cache(maxsize=4)
def _inverses(indices: tuple[int, ...]) -> dict[int, int]:
    """Return, for each index, the inverse of the product of its differences from the others."""
    return {index: pow(_product(index - other for other in indices if other != index), -1, ORDER) for index in indices}


def share_matches_point(share: bytes, point: bytes) -> bool:
    """Return whether ``point`` is the published point of a share."""
    try:
        return base_multiple(share) == point
    except ValueError:
        return False


def is_valid_sharing(points: Mapping[int, bytes], threshold: int) -> bool:
    """Return whether the shares behind ``points`` are shares of the secret behind the point at 0 (SCRAPE).

    Parameters
    ----------
    points : mapping of int to bytes
        Points of the secret, at 0, and of its shares, by their indices.
    threshold : int
        Number of shares that determine the secret.

    Returns
    -------
    bool
        Correct except with probability 2^-240. False also where a point is not in the group.
    """
    # A word of the dual code: its product with the values of any polynomial of degree below the threshold is 0.
    word = _random(len(points) - threshold)
    weights = {index: _evaluate(word, index) * inverse for index, inverse in _inverses(tuple(points)).items()}
    try:
        terms = [
            scalar_multiple(encode_scalar(weight), points[index])
            for index, weight in weights.items()
            if index != SECRET_INDEX
        ]
        expected = scalar_multiple(encode_scalar(-weights[SECRET_INDEX]), points[SECRET_INDEX])
        return reduce(add_points, terms) == expected
    except ValueError:
        return False
