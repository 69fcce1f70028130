"""Verifiable shares, and the group of their points."""

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


def test_points_add_like_scalars():
    one, other = (int.from_bytes(random_scalar(), "little") for _ in range(2))
    assert add_points(base_multiple(encode_scalar(one)), base_multiple(encode_scalar(other))) == base_multiple(
        encode_scalar(one + other)
    )
    assert scalar_multiple(encode_scalar(one), base_multiple(encode_scalar(other))) == base_multiple(
        encode_scalar(one * other)
    )


def test_two_parties_derive_same_key_per_use():
    one, other = random_scalar(), random_scalar()
    key = derive_shared_key(one, base_multiple(other), b"a")
    assert (
        key == derive_shared_key(other, base_multiple(one), b"a") != derive_shared_key(one, base_multiple(other), b"b")
    )


@pytest.mark.parametrize(
    "content", [*SMALL_ORDER, b"", bytes(ELEMENT_BYTES - 1), (2**255 - 19 + 3).to_bytes(ELEMENT_BYTES, "little")]
)
def test_invalid_point_is_refused(content):
    assert not is_point(content)
    with pytest.raises((ValueError, TypeError)):
        derive_shared_key(random_scalar(), content, b"")


@pytest.mark.parametrize("small", SMALL_ORDER[1:], ids=["4", "2", "8"])
def test_point_with_small_order_component_is_refused(small):
    point = add_points(base_multiple(random_scalar()), small)
    assert not is_point(point)
    with pytest.raises(ValueError, match="not in the group"):
        scalar_multiple(random_scalar(), point)


@pytest.mark.parametrize(
    "scalar", [bytes(ELEMENT_BYTES), ORDER.to_bytes(ELEMENT_BYTES, "little"), b"\xff" * ELEMENT_BYTES, b"x", b""]
)
def test_invalid_scalar_has_no_point(scalar):
    with pytest.raises(ValueError, match="a scalar has 32 bytes"):
        base_multiple(scalar)
    assert not share_matches_point(scalar, base_multiple(random_scalar()))


def test_noncanonical_scalar_is_no_share():
    share = random_scalar()
    same = (int.from_bytes(share, "little") + ORDER).to_bytes(ELEMENT_BYTES, "little")
    assert share_matches_point(share, base_multiple(share)) and not share_matches_point(same, base_multiple(share))


def points_of(secret: bytes, shares: dict[int, bytes]) -> dict[int, bytes]:
    return {0: base_multiple(secret)} | {place: base_multiple(share) for place, share in shares.items()}


@given(st.integers(1, 6), st.integers(0, 3), st.permutations(range(1, 40)))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_valid_sharing_is_recognized(threshold, more, places):
    secret, places = random_scalar(), places[: threshold + more]
    shares = split(secret, places, threshold)
    assert is_valid_sharing(points_of(secret, shares), threshold)
    for place in (0, places[0], places[-1]):
        assert not is_valid_sharing({**points_of(secret, shares), place: base_multiple(random_scalar())}, threshold)
    if more:
        assert not is_valid_sharing(points_of(secret, split(secret, places, threshold + 1)), threshold)
        # Two shares with opposite errors.
        wrong = {place: int.from_bytes(shares[place], "little") for place in places[:2]}
        moved = {
            place: encode_scalar(value + sign) for (place, value), sign in zip(wrong.items(), (1, -1), strict=True)
        }
        assert not is_valid_sharing(points_of(secret, {**shares, **moved}), threshold)


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("content", SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_small_order_point_is_no_valid_sharing(place, content):
    secret = random_scalar()
    points = points_of(secret, split(secret, [1, 2, 3, 4], 2))
    assert not is_valid_sharing({**points, place: content}, 2)
    if content != SMALL_ORDER[0]:
        assert not is_valid_sharing({**points, place: add_points(points[place], content)}, 2)


def test_shares_below_threshold_fit_every_secret():
    """Each secret has a polynomial through the known shares."""
    secret, other = random_scalar(), random_scalar()
    shares = split(secret, range(1, 9), 6)
    known = {place: shares[place] for place in range(1, 6)}
    for wanted in (secret, other):
        # The sixth share for the chosen secret.
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
def test_threshold_of_shares_recovers_secret(value, threshold, more):
    secret = value.to_bytes(ELEMENT_BYTES, "little")
    shares = split(secret, range(1, threshold + more + 1), threshold)
    for chosen in combinations(shares, threshold):
        assert combine({place: shares[place] for place in chosen}, threshold) == secret


def test_split_is_randomized():
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
def test_invalid_split_is_refused(secret, places, threshold):
    with pytest.raises(ValueError):
        split(secret, places, threshold)


def test_order_of_group_is_prime():
    """Fermat tests to several bases."""
    assert all(pow(base, ORDER - 1, ORDER) == 1 for base in (2, 3, 5, 7, 11, 13))
