"""Shares that can be checked, and the group whose points check them."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.aggregation.group import (
    ELEMENT_BYTES,
    ORDER,
    add_points,
    base_multiple,
    derive_shared_key,
    encode_scalar,
    is_point,
    random_scalar,
    scalar_multiple,
)
from ppml.aggregation.shamir import combine, is_valid_sharing, share_matches_point, split

SMALL_ORDER = [
    (1).to_bytes(ELEMENT_BYTES, "little"),
    bytes(ELEMENT_BYTES),
    (2**255 - 20).to_bytes(ELEMENT_BYTES, "little"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


def test_points_add_up_as_scalars_do_modulo_the_order():
    one, other = (int.from_bytes(random_scalar(), "little") for _ in range(2))
    assert add_points(base_multiple(encode_scalar(one)), base_multiple(encode_scalar(other))) == base_multiple(
        encode_scalar(one + other)
    )
    assert scalar_multiple(encode_scalar(one), base_multiple(encode_scalar(other))) == base_multiple(
        encode_scalar(one * other)
    )


def test_two_parties_agree_on_a_key_for_each_use():
    one, other = random_scalar(), random_scalar()
    key = derive_shared_key(one, base_multiple(other), b"a")
    assert (
        key == derive_shared_key(other, base_multiple(one), b"a") != derive_shared_key(one, base_multiple(other), b"b")
    )


@pytest.mark.parametrize(
    "content", [*SMALL_ORDER, b"", bytes(ELEMENT_BYTES - 1), (2**255 - 19 + 3).to_bytes(ELEMENT_BYTES, "little")]
)
def test_what_is_no_point_of_the_group_is_refused(content):
    assert not is_point(content)
    with pytest.raises((ValueError, TypeError)):
        derive_shared_key(random_scalar(), content, b"")


@pytest.mark.parametrize("small", SMALL_ORDER[1:], ids=["4", "2", "8"])
def test_a_point_with_a_part_of_small_order_is_refused(small):
    point = add_points(base_multiple(random_scalar()), small)
    assert not is_point(point)
    with pytest.raises(ValueError, match="not in the group"):
        scalar_multiple(random_scalar(), point)


@pytest.mark.parametrize(
    "scalar", [bytes(ELEMENT_BYTES), ORDER.to_bytes(ELEMENT_BYTES, "little"), b"\xff" * ELEMENT_BYTES, b"x", b""]
)
def test_what_is_no_scalar_has_no_point_and_is_no_share(scalar):
    with pytest.raises(ValueError, match="a scalar has 32 bytes"):
        base_multiple(scalar)
    assert not share_matches_point(scalar, base_multiple(random_scalar()))


def test_another_number_of_the_same_point_is_no_share():
    share = random_scalar()
    same = (int.from_bytes(share, "little") + ORDER).to_bytes(ELEMENT_BYTES, "little")
    assert share_matches_point(share, base_multiple(share)) and not share_matches_point(same, base_multiple(share))


def points_of(secret: bytes, shares: dict[int, bytes]) -> dict[int, bytes]:
    return {0: base_multiple(secret)} | {place: base_multiple(share) for place, share in shares.items()}


@given(st.integers(1, 6), st.integers(0, 3), st.permutations(range(1, 40)))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_shares_of_one_secret_are_told_from_any_others(threshold, more, places):
    secret, places = random_scalar(), places[: threshold + more]
    shares = split(secret, places, threshold)
    assert is_valid_sharing(points_of(secret, shares), threshold)
    for place in (0, places[0], places[-1]):
        assert not is_valid_sharing({**points_of(secret, shares), place: base_multiple(random_scalar())}, threshold)
    if more:
        assert not is_valid_sharing(points_of(secret, split(secret, places, threshold + 1)), threshold)
        # Two that are wrong by as much, in opposite ways.
        wrong = {place: int.from_bytes(shares[place], "little") for place in places[:2]}
        moved = {
            place: encode_scalar(value + sign) for (place, value), sign in zip(wrong.items(), (1, -1), strict=True)
        }
        assert not is_valid_sharing(points_of(secret, {**shares, **moved}), threshold)


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("content", SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_a_point_of_small_order_or_with_a_part_of_it_is_of_no_secret(place, content):
    secret = random_scalar()
    points = points_of(secret, split(secret, [1, 2, 3, 4], 2))
    assert not is_valid_sharing({**points, place: content}, 2)
    if content != SMALL_ORDER[0]:
        assert not is_valid_sharing({**points, place: add_points(points[place], content)}, 2)


def test_five_shares_of_a_threshold_of_six_fit_every_secret():
    """Whatever the secret was, there is a polynomial through the shares that are known."""
    secret, other = random_scalar(), random_scalar()
    shares = split(secret, range(1, 9), 6)
    known = {place: shares[place] for place in range(1, 6)}
    for wanted in (secret, other):
        # The sixth share that makes them say what is wanted.
        point = sixth_share(known, int.from_bytes(wanted, "little"), 6)
        assert combine({**known, 6: point}, 6) == wanted


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
    return encode_scalar(value)


@given(st.integers(0, ORDER - 1), st.integers(1, 6), st.integers(0, 4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_as_many_shares_as_the_threshold_give_any_secret_back(value, threshold, more):
    secret = value.to_bytes(ELEMENT_BYTES, "little")
    shares = split(secret, range(1, threshold + more + 1), threshold)
    for chosen in combinations(shares, threshold):
        assert combine({place: shares[place] for place in chosen}, threshold) == secret


def test_a_secret_is_divided_anew_each_time():
    secret = random_scalar()
    assert split(secret, [1, 2, 3], 2) != split(secret, [1, 2, 3], 2)


@pytest.mark.parametrize(
    ("secret", "places", "threshold"),
    [
        (ORDER.to_bytes(ELEMENT_BYTES, "little"), [1, 2], 2),
        (b"short", [1, 2], 2),
        (bytes(ELEMENT_BYTES), [0, 1], 2),
        (bytes(ELEMENT_BYTES), [1, 1], 2),
        (bytes(ELEMENT_BYTES), [1, 2], 3),
        (bytes(ELEMENT_BYTES), [1, 2], 0),
    ],
)
def test_a_secret_that_cannot_be_divided_is_refused(secret, places, threshold):
    with pytest.raises(ValueError):
        split(secret, places, threshold)


def test_the_field_is_a_field():
    """By Fermat's little theorem to several bases, as far as that goes."""
    assert all(pow(base, ORDER - 1, ORDER) == 1 for base in (2, 3, 5, 7, 11, 13))
