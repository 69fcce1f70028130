"""Secrets divided so that enough of the shares give them back and fewer say nothing (Shamir, CACM 1979).

A share is checked by a point that the dealer publishes for it: the multiple of the base point by the share (Feldman,
FOCS 1987). That all points of a dealer belong to shares of one secret is tested at once, by a random word of the dual
code (SCRAPE: Cascudo and David, ACNS 2017, ePrint 2017/216). So a wrong share is seen by the party that gets it, and by
each that it is shown to, and what is published tells of a random secret what its own point tells.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, reduce

from ppml.aggregation.group import ELEMENT_BYTES, ORDER, add_points, encode_scalar, scalar_multiple, base_multiple

SECRET_INDEX = 0
"""The place of the secret itself."""


def split(secret: bytes, places: Sequence[int], threshold: int) -> dict[int, bytes]:
    """Return a share of ``secret`` for each of ``places``: the values there of a random polynomial.

    Parameters
    ----------
    secret : bytes
        A scalar.
    places : sequence of int
        Distinct numbers from 1.
    threshold : int
        How many shares give the secret back.

    Raises
    ------
    ValueError
        The secret is too large, a place is not from 1 or there twice, or too few are there.

    Examples
    --------
    >>> shares = divided(bytes(30) + b"x" + bytes(1), [1, 2, 3, 4], threshold=3)
    >>> together({place: shares[place] for place in (1, 2, 4)}, threshold=3) == bytes(30) + b"x" + bytes(1)
    True
    """
    value = int.from_bytes(secret, "little")
    if len(secret) != ELEMENT_BYTES or value >= ORDER:
        raise ValueError("a secret is 32 bytes and below the order of the group")
    if min(places) < 1 or len(set(places)) < len(places) or not 1 <= threshold <= len(places):
        raise ValueError(
            f"{threshold} of the places {list(places)}: they are distinct and from 1, and as many at least"
        )
    # From the constant term, which is the secret, up.
    polynomial = [value, *_random(threshold - 1)]
    return {place: encode_scalar(_evaluate(polynomial, place)) for place in places}


def _random(count: int) -> list[int]:
    return [secrets.randbelow(ORDER) for _ in range(count)]


def _evaluate(polynomial: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % ORDER
    return value


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret that ``shares`` are of, by Lagrange's formula at 0.

    Raises
    ------
    ValueError
        They are too few.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, {threshold} are needed")
    chosen = tuple(sorted(shares)[:threshold])
    value = 0
    for place, inverse in _inverses(chosen).items():
        above = _product(-other for other in chosen if other != place)
        value += int.from_bytes(shares[place], "little") * above * inverse
    return encode_scalar(value)


def _product(numbers: Iterable[int]) -> int:
    value = 1
    for number in numbers:
        value = value * number % ORDER
    return value


@lru_cache(maxsize=4)
def _inverses(places: tuple[int, ...]) -> dict[int, int]:
    """Return, for each place, the inverse of the product of its differences from the others."""
    return {place: pow(_product(place - other for other in places if other != place), -1, ORDER) for place in places}


def share_matches_point(share: bytes, point: bytes) -> bool:
    """Return whether a share is that of the point which its dealer has published for it."""
    try:
        return base_multiple(share) == point
    except ValueError:
        return False


def is_valid_sharing(points: Mapping[int, bytes], threshold: int) -> bool:
    """Return whether the shares behind ``points`` are all of the secret behind the point at 0.

    Parameters
    ----------
    points : mapping of int to bytes
        The points of the secret, at 0, and of its shares, by their places.
    threshold : int
        How many shares give the secret back.

    Returns
    -------
    bool
        Right but for a probability of 2^-240. False also where a point is none of the group.
    """
    # A word of the dual code: its product with the values of any polynomial of a degree below the threshold is 0.
    word = _random(len(points) - threshold)
    weights = {place: _evaluate(word, place) * inverse for place, inverse in _inverses(tuple(points)).items()}
    try:
        terms = [scalar_multiple(encode_scalar(weight), points[place]) for place, weight in weights.items() if place != SECRET_INDEX]
        return reduce(add_points, terms) == scalar_multiple(encode_scalar(-weights[SECRET_INDEX]), points[SECRET_INDEX])
    except ValueError:
        return False
