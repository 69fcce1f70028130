"""Arithmetic modulo 2^61 - 1, compared with Python's integers."""

from __future__ import annotations

import numpy as np
import pytest

from ppml.errors import InvalidUpdate
from ppml.proofs import prime_field
from ppml.proofs.prime_field import (
    PRIME,
    add,
    deserialize,
    lagrange_weights,
    matrix_product,
    multiply,
    multiply_by_power_of_two,
    serialize,
    subtract,
    to_elements,
    to_integers,
    total,
    uniform_elements,
)

EDGES = [0, 1, 2, 2**29, 2**32 - 1, 2**32, 2**60, PRIME // 2, PRIME // 2 + 1, PRIME - 2, PRIME - 1]


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """All pairs of edge cases, and random pairs."""
    left, right = (side.ravel() for side in np.meshgrid(EDGES, EDGES))
    random = uniform_elements(bytes(32), 2000)
    return (
        np.concatenate([left.astype(np.uint64), random[:1000]]),
        np.concatenate([right.astype(np.uint64), random[1000:]]),
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(add, lambda a, b: a + b), (subtract, lambda a, b: a - b), (multiply, lambda a, b: a * b)],
    ids=["plus", "minus", "times"],
)
def test_arithmetic_matches_integers(ours, theirs):
    left, right = pairs()
    wanted = [theirs(a, b) % PRIME for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    assert ours(left, right).tolist() == wanted


@pytest.mark.parametrize("bits", [0, 1, 21, 42, 60, 61, 63, 84])
def test_multiplication_by_power_of_two(bits):
    left, _ = pairs()
    assert multiply_by_power_of_two(left, bits).tolist() == [value * 2**bits % PRIME for value in left.tolist()]


def test_sums_of_largest_elements_are_exact():
    values = np.full((3, 100_000), PRIME - 1, dtype=np.uint64)
    assert int(total(values)) == 300_000 * (PRIME - 1) % PRIME
    assert total(values, axis=1).tolist() == [100_000 * (PRIME - 1) % PRIME] * 3


@pytest.mark.parametrize("inner", [1, 129, 257, 682])
def test_matrix_products_are_exact(inner):
    for left, right in (
        (
            uniform_elements(bytes(32), 4 * inner).reshape(4, inner),
            uniform_elements(bytes(31) + b"x", inner * 3).reshape(inner, 3),
        ),
        (np.full((4, inner), PRIME - 1, np.uint64), np.full((inner, 3), PRIME - 1, np.uint64)),
    ):
        wanted = left.astype(object) @ right.astype(object) % PRIME
        assert np.array_equal(matrix_product(left, right), wanted.astype(np.uint64))


def test_inexact_matrix_product_is_refused():
    with pytest.raises(ValueError, match="sums of 683 products, at most 682 are exact"):
        matrix_product(np.zeros((1, 683), np.uint64), np.zeros((683, 1), np.uint64))


def test_integers_round_trip():
    values = np.array([0, 1, -1, 2**23, -(2**23), PRIME // 2, -(PRIME // 2)])
    assert np.array_equal(to_integers(to_elements(values)), values)


@pytest.mark.parametrize("point", [5, 9, 12345, PRIME - 1])
def test_lagrange_weights_interpolate(point):
    coefficients = [7, PRIME - 3, 11, 2**60, 5]
    values = [sum(c * node**power for power, c in enumerate(coefficients)) % PRIME for node in range(5)]
    found = int(total(multiply(lagrange_weights(5, point), np.array(values, dtype=np.uint64))))
    assert found == sum(c * point**power for power, c in enumerate(coefficients)) % PRIME


def test_uniform_elements_are_reproducible():
    found = uniform_elements(bytes(32), 100_000)
    assert found.max() < PRIME and found.max() > 0.99 * PRIME and len(found) == 100_000
    assert np.array_equal(found[:10], uniform_elements(bytes(32), 10))


def test_word_above_prime_is_rejected(monkeypatch):
    words = np.array([5, PRIME, 7] + [9] * 8, dtype=np.uint64)
    monkeypatch.setattr(prime_field, "prg", lambda seed, length, width: words[:length])
    assert uniform_elements(bytes(32), 3).tolist() == [5, 7, 9]


@pytest.mark.parametrize("content", [b"", bytes(7), bytes(9), bytes(24)])
def test_wrong_number_of_elements_is_refused(content):
    with pytest.raises(InvalidUpdate, match=rf"^{len(content)} bytes for 2 numbers of 8 bytes each$"):
        deserialize(content, 2)


@pytest.mark.parametrize("value", [PRIME, 2**61, 2**64 - 1])
def test_number_above_prime_is_refused(value):
    good = serialize(np.array([PRIME - 1], dtype=np.uint64))
    assert deserialize(good, 1).tolist() == [PRIME - 1]
    with pytest.raises(InvalidUpdate, match="a number that is not below the prime"):
        deserialize(good + value.to_bytes(8, "little"), 2)
