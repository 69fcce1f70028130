"""Shares that can be checked, and the group whose points check them."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.aggregation.group import (
    BYTES,
    ORDER,
    added,
    agreed_key,
    encoded,
    fresh_scalar,
    is_point,
    multiple,
    point_of,
)
from ppml.aggregation.shamir import are_of_one_secret, divided, is_share, together

SMALL_ORDER = [
    (1).to_bytes(BYTES, "little"),
    bytes(BYTES),
    (2**255 - 20).to_bytes(BYTES, "little"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


def test_points_add_up_as_scalars_do_modulo_the_order():
    one, other = (int.from_bytes(fresh_scalar(), "little") for _ in range(2))
    assert added(point_of(encoded(one)), point_of(encoded(other))) == point_of(encoded(one + other))
    assert multiple(encoded(one), point_of(encoded(other))) == point_of(encoded(one * other))


def test_two_parties_agree_on_a_key_for_each_use():
    one, other = fresh_scalar(), fresh_scalar()
    key = agreed_key(one, point_of(other), b"a")
    assert key == agreed_key(other, point_of(one), b"a") != agreed_key(one, point_of(other), b"b")


@pytest.mark.parametrize("content", [*SMALL_ORDER, b"", bytes(BYTES - 1), (2**255 - 19 + 3).to_bytes(BYTES, "little")])
def test_what_is_no_point_of_the_group_is_refused(content):
    assert not is_point(content)
    with pytest.raises((ValueError, TypeError)):
        agreed_key(fresh_scalar(), content, b"")


@pytest.mark.parametrize("small", SMALL_ORDER[1:], ids=["4", "2", "8"])
def test_a_point_with_a_part_of_small_order_is_refused(small):
    point = added(point_of(fresh_scalar()), small)
    assert not is_point(point)
    with pytest.raises(ValueError, match="no point of the group"):
        multiple(fresh_scalar(), point)


@pytest.mark.parametrize("scalar", [bytes(BYTES), ORDER.to_bytes(BYTES, "little"), b"\xff" * BYTES, b"x", b""])
def test_what_is_no_scalar_has_no_point_and_is_no_share(scalar):
    with pytest.raises(ValueError, match="a scalar is"):
        point_of(scalar)
    assert not is_share(scalar, point_of(fresh_scalar()))


def test_another_number_of_the_same_point_is_no_share():
    share = fresh_scalar()
    same = (int.from_bytes(share, "little") + ORDER).to_bytes(BYTES, "little")
    assert is_share(share, point_of(share)) and not is_share(same, point_of(share))


def points_of(secret: bytes, shares: dict[int, bytes]) -> dict[int, bytes]:
    return {0: point_of(secret)} | {place: point_of(share) for place, share in shares.items()}


@given(st.integers(1, 6), st.integers(0, 3), st.permutations(range(1, 40)))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_shares_of_one_secret_are_told_from_any_others(threshold, more, places):
    secret, places = fresh_scalar(), places[: threshold + more]
    shares = divided(secret, places, threshold)
    assert are_of_one_secret(points_of(secret, shares), threshold)
    for place in (0, places[0], places[-1]):
        assert not are_of_one_secret({**points_of(secret, shares), place: point_of(fresh_scalar())}, threshold)
    if more:
        assert not are_of_one_secret(points_of(secret, divided(secret, places, threshold + 1)), threshold)
        # Two that are wrong by as much, in opposite ways.
        wrong = {place: int.from_bytes(shares[place], "little") for place in places[:2]}
        moved = {place: encoded(value + sign) for (place, value), sign in zip(wrong.items(), (1, -1), strict=True)}
        assert not are_of_one_secret(points_of(secret, {**shares, **moved}), threshold)


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("content", SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_a_point_of_small_order_or_with_a_part_of_it_is_of_no_secret(place, content):
    secret = fresh_scalar()
    points = points_of(secret, divided(secret, [1, 2, 3, 4], 2))
    assert not are_of_one_secret({**points, place: content}, 2)
    if content != SMALL_ORDER[0]:
        assert not are_of_one_secret({**points, place: added(points[place], content)}, 2)


def test_five_shares_of_a_threshold_of_six_fit_every_secret():
    """Whatever the secret was, there is a polynomial through the shares that are known."""
    secret, other = fresh_scalar(), fresh_scalar()
    shares = divided(secret, range(1, 9), 6)
    known = {place: shares[place] for place in range(1, 6)}
    for wanted in (secret, other):
        # The sixth share that makes them say what is wanted.
        point = sixth_share(known, int.from_bytes(wanted, "little"), 6)
        assert together({**known, 6: point}, 6) == wanted


def sixth_share(known: dict[int, bytes], wanted: int, place: int) -> bytes:
    """Return the share at ``place`` of the polynomial through ``known`` that is ``wanted`` at 0."""
    points = {0: wanted, **{at: int.from_bytes(share, "little") for at, share in known.items()}}
    value = 0
    for at, share in points.items():
        above, below = 1, 1
        for other in points:
            if other != at:
                above, below = above * (place - other) % ORDER, below * (at - other) % ORDER
        value += share * above * pow(below, -1, ORDER)
    return encoded(value)


@given(st.integers(0, ORDER - 1), st.integers(1, 6), st.integers(0, 4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_as_many_shares_as_the_threshold_give_any_secret_back(value, threshold, more):
    secret = value.to_bytes(BYTES, "little")
    shares = divided(secret, range(1, threshold + more + 1), threshold)
    for chosen in combinations(shares, threshold):
        assert together({place: shares[place] for place in chosen}, threshold) == secret


def test_a_secret_is_divided_anew_each_time():
    secret = fresh_scalar()
    assert divided(secret, [1, 2, 3], 2) != divided(secret, [1, 2, 3], 2)


@pytest.mark.parametrize(
    ("secret", "places", "threshold"),
    [
        (ORDER.to_bytes(BYTES, "little"), [1, 2], 2),
        (b"short", [1, 2], 2),
        (bytes(BYTES), [0, 1], 2),
        (bytes(BYTES), [1, 1], 2),
        (bytes(BYTES), [1, 2], 3),
        (bytes(BYTES), [1, 2], 0),
    ],
)
def test_a_secret_that_cannot_be_divided_is_refused(secret, places, threshold):
    with pytest.raises(ValueError):
        divided(secret, places, threshold)


def test_the_field_is_a_field():
    """By Fermat's little theorem to several bases, as far as that goes."""
    assert all(pow(base, ORDER - 1, ORDER) == 1 for base in (2, 3, 5, 7, 11, 13))
