from __future__ import annotations

import numpy as np
import pytest

from ppml.aggregation.factory import build_parties
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.config.technique import Plaintext
from ppml.errors import InvalidUpdate


def bytes_a_value(clip: float, fractional_bits: int, clients: int) -> int:
    return len(PlaintextAggregation(FixedPointCodec(clip, fractional_bits), clients).protect(np.array([0])).payload)


@pytest.mark.parametrize(
    ("clip", "clients", "expected"),
    [(8.0, 8, 4), (8.0, 255, 4), (8.0, 256, 8), (2048.0, 1, 8), (2047.0, 1, 4), (1024.0, 2, 8)],
)
def test_values_have_32_bits_if_largest_sum_fits(clip, clients, expected):
    assert bytes_a_value(clip, 20, clients) == expected


@pytest.mark.parametrize("clients", [1, 255, 256])
@pytest.mark.parametrize("sign", [-1, 1])
def test_largest_sum_near_32_bits_is_exact(clients, sign):
    codec = FixedPointCodec(8.0, 20)
    aggregation = PlaintextAggregation(codec, clients)
    update = codec.encode(np.array([sign * 8.0, sign * 7.5, 0.0]))
    total = aggregation.reveal(aggregation.add([aggregation.protect(update)] * clients))
    assert np.array_equal(total, clients * update)


def test_sum_keeps_length_and_scheme():
    aggregation = PlaintextAggregation(FixedPointCodec(1.0, 20), 2)
    total = aggregation.add([aggregation.protect(np.arange(7)), aggregation.protect(np.arange(7))])
    assert (total.scheme, total.length) == ("plaintext", 7)


def test_integers_are_little_endian():
    sealed = PlaintextAggregation(FixedPointCodec(1.0, 20), 1).protect(np.array([1, -2]))
    assert sealed == ProtectedUpdate("plaintext", 2, b"\x01\x00\x00\x00\xfe\xff\xff\xff")


def test_server_adds_without_client_state():
    assert build_parties(Plaintext(), 1).material() == b""


@pytest.mark.parametrize("clients", [1, 256], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_check_refuses_value_above_clipping_bound(clients, sign):
    aggregation = PlaintextAggregation(FixedPointCodec(8.0, 20), clients)
    aggregation.check(aggregation.protect(np.array([0, sign * 2**23])))
    with pytest.raises(InvalidUpdate, match=r"exceeds the clipping bound"):
        aggregation.check(aggregation.protect(np.array([0, sign * (2**23 + 1)])))


@pytest.mark.parametrize("payload", [b"", b"\x00" * 7, b"\x00" * 12], ids=len)
def test_wrong_payload_length_is_refused(payload):
    aggregation = PlaintextAggregation(FixedPointCodec(8.0, 20), 3)
    with pytest.raises(InvalidUpdate, match=f"^{len(payload)} bytes for 2 values of 4 or 8 bytes each$"):
        aggregation.check(ProtectedUpdate("plaintext", 2, payload))
