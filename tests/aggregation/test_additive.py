"""Additive shares between servers: exact sums, and nothing for who lacks one of the servers."""

from __future__ import annotations

import os
from multiprocessing import active_children

import numpy as np
import pytest

from ppml.aggregation.additive import (
    CHECK,
    PUBLIC,
    SUM,
    WRAPPED,
    HelpingServer,
    SharingClients,
    SharingServer,
    wrapped,
)
from ppml.aggregation.build import build_parties, build_server_side
from ppml.aggregation.capacity import largest_value
from ppml.aggregation.checksum import MARK, ORIGIN, content_of, origin_of, sealed_of
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation.protocol import BadUpdate, Sealed
from ppml.aggregation.streams import KEY, stream, width_of
from ppml.config.technique import Shares

CODEC = FixedPointCodec(8.0, 20)
LARGEST = largest_value(8.0, 20)


class Local:
    """All servers in one process, whose keys a test can look at."""

    def __init__(self, servers: int = 3, width: int = 4) -> None:
        self.helpers = [HelpingServer() for _ in range(servers - 1)]
        self.clients = SharingClients([helper.answer(PUBLIC, b"") for helper in self.helpers], width)
        self.server = SharingServer([helper.answer for helper in self.helpers], width)


def updates(count: int, length: int, clip: float = 8.0) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    codec = FixedPointCodec(clip, 20)
    values = [codec.encode(rng.normal(0, 3, length)) for _ in range(count)]
    values[0][:] = codec.encode(np.array([clip]))[0]
    values[1][:] = codec.encode(np.array([-clip]))[0]
    return values


# The same bits.


@pytest.mark.parametrize("servers", [2, 3, 5])
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("length", [1, 1000])
def test_sums_are_those_in_the_clear_bit_for_bit(servers, width, length):
    local, values = Local(servers, width), updates(8, length)
    clear = PlaintextAggregation(CODEC, 8)
    sealed = [local.clients.seal(value) for value in values]
    for one in sealed:
        local.server.check(one)
    found = local.clients.unseal(local.server.add(sealed))
    assert found.dtype == np.int64
    assert np.array_equal(found, clear.unseal(clear.add([clear.seal(value) for value in values])))


def test_sums_of_clients_that_are_lost_on_the_way_are_those_of_the_rest():
    local, values = Local(), updates(8, 100)
    sealed = [local.clients.seal(value) for value in values]
    total = local.server.add([sealed[client] for client in (0, 1, 3, 4, 6, 7)])
    assert np.array_equal(local.clients.unseal(total), sum(values[client] for client in (0, 1, 3, 4, 6, 7)))


@pytest.mark.parametrize("clients", [2, 255, 256])
def test_as_many_bytes_a_value_as_the_largest_sum_needs(clients):
    width = width_of(clients, Shares())
    assert width == (4 if clients < 256 else 8)
    local = Local(width=width)
    update = np.array([LARGEST, -LARGEST])
    total = local.server.add([local.clients.seal(update) for _ in range(clients)])
    assert local.clients.unseal(total).tolist() == (clients * update).tolist()


def test_one_client_more_than_there_is_room_for_would_overflow():
    """Room is made for 255 clients of the default grid in 4 bytes; the sum of 256 at the bound turns around."""
    update = np.array([LARGEST])
    sums = []
    for clients in (255, 256):
        local = Local(width=4)
        total = local.server.add([local.clients.seal(update) for _ in range(clients)])
        sums.append(int(local.clients.unseal(total)[0]))
    assert sums == [255 * 2**23, -(2**31)]


def test_an_upload_takes_what_it_takes_in_the_clear_and_80_bytes_a_helping_server():
    sealed = Local().clients.seal(np.zeros(1000, np.int64))
    assert len(sealed.payload) == 4000 + 2 * 80 + MARK + ORIGIN and WRAPPED == 80


# Who sees what.


def test_who_lacks_one_server_sees_values_that_say_nothing():
    """All shares but one are of the same distribution, whatever the update: uniform."""
    length = 100_000
    for update in (np.zeros(length, np.int64), np.full(length, 2**23)):
        local = Local()
        sealed = local.clients.seal(update)
        seeds, left = parts(sealed)
        about = length.to_bytes(8, "little") + b"\x04"
        opened = [unsealed(helper, seed, about) for helper, seed in zip(local.helpers, seeds, strict=True)]
        streams = [stream(seed, length, 4) for seed in opened]
        # Together they are the update; what the first server and one other have is not.
        whole = np.frombuffer(left, "<u4") + streams[0] + streams[1]
        assert np.array_equal(whole.view("<i4"), update)
        for known in (
            np.frombuffer(left, "<u4"),
            np.frombuffer(left, "<u4") + streams[0],
            np.frombuffer(left, "<u4") + streams[1],
            streams[0] + streams[1],
        ):
            check_uniform(known)


def check_uniform(values: np.ndarray) -> None:
    """Chi-squared over the first and the last byte: 255 degrees of freedom, mean 255, deviation 22.6."""
    for byte in (0, 3):
        counts = np.bincount(values.astype("<u4").view(np.uint8)[byte::4], minlength=256)
        expected = len(values) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * 22.6


def test_a_stream_that_is_left_out_is_caught():
    update = np.full(100_000, 2**23)
    with pytest.raises(AssertionError):
        check_uniform(update.astype("<u4"))


def parts(sealed: Sealed, helpers: int = 2) -> tuple[list[bytes], bytes]:
    content = content_of(sealed)
    ends = helpers * WRAPPED
    return [content[start : start + WRAPPED] for start in range(0, ends, WRAPPED)], content[ends:]


def unsealed(helper: HelpingServer, seed: bytes, about: bytes) -> bytes:
    from ppml.aggregation.additive import unwrapped

    return unwrapped(seed, helper._secret, about)


def test_a_seed_is_read_by_its_server_alone_and_with_its_own_update():
    local = Local()
    seeds, _ = parts(local.clients.seal(np.zeros(7, np.int64)))
    about = (7).to_bytes(8, "little") + b"\x04"
    assert len(unsealed(local.helpers[0], seeds[0], about)) == 32
    other = (8).to_bytes(8, "little") + b"\x04"
    for helper, seed, said in ((local.helpers[1], seeds[0], about), (local.helpers[0], seeds[0], other)):
        with pytest.raises(BadUpdate, match="a helping server cannot read the seed that is for it"):
            unsealed(helper, seed, said)


def test_seeds_and_keys_are_fresh_and_no_seed_drives_them():
    np.random.seed(0)  # noqa: NPY002  the point is that it does not matter
    first = Local().clients.seal(np.zeros(10, np.int64))
    np.random.seed(0)  # noqa: NPY002
    second = Local().clients.seal(np.zeros(10, np.int64))
    assert first.payload != second.payload
    local = Local()
    assert len({local.clients.seal(np.zeros(10, np.int64)).payload for _ in range(5)}) == 5


def test_a_helping_server_gives_each_share_once_and_none_alone():
    local = Local()
    sealed = [local.clients.seal(np.arange(5)) for _ in range(3)]
    with pytest.raises(BadUpdate, match="a sum of fewer than 2 updates is not opened: it would show one"):
        local.server.add(sealed[:1])
    with pytest.raises(BadUpdate, match="fewer than 2 updates"):
        local.server.add([sealed[0], sealed[0]])
    assert local.clients.unseal(local.server.add(sealed)).tolist() == (3 * np.arange(5)).tolist()
    # Two sums of which one has a client more would show that client's update.
    with pytest.raises(BadUpdate, match="a share is given once: what two sums differ by would show one"):
        local.server.add(sealed[:2])


def test_a_helping_server_that_gives_shares_twice_is_caught(monkeypatch):
    local = Local()
    values = updates(3, 50)
    sealed = [local.clients.seal(value) for value in values]
    for helper in local.helpers:
        monkeypatch.setattr(helper, "_given", Forgets())
    whole, without = (local.clients.unseal(local.server.add(sealed[:count])) for count in (3, 2))
    assert np.array_equal(whole - without, values[2]), "the server learns the update of the third client"


class Forgets(set):
    def isdisjoint(self, other):
        return True


# Bad uploads.

DAMAGES = {
    "cut off": lambda payload: payload[:-1],
    "nothing": lambda payload: b"",
    "longer": lambda payload: payload + b"xyz",
    "a bit": lambda payload: payload[:-3] + bytes([payload[-3] ^ 1]) + payload[-2:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_payload_is_refused(damage):
    local = Local()
    sealed = local.clients.seal(np.zeros(10, np.int64))
    with pytest.raises(BadUpdate, match=r"^it was cut off or altered on the way"):
        local.server.check(Sealed(sealed.scheme, sealed.length, damage(sealed.payload)))


FAULTS = {
    "too few values": (lambda content: content[:-4], "36 bytes for 10 values of 4 bytes each"),
    "too many values": (lambda content: content + bytes(4), "44 bytes for 10 values of 4 bytes each"),
    "another seed": (lambda content: bytes(KEY) + content[KEY:], "cannot read the seed"),
    "a seed for another server": (
        lambda content: content[WRAPPED : 2 * WRAPPED] + content[:WRAPPED] + content[2 * WRAPPED :],
        "cannot read the seed",
    ),
    "no seeds": (lambda content: b"", "0 bytes for 10 values"),
}


@pytest.mark.parametrize(("change", "why"), FAULTS.values(), ids=FAULTS)
def test_what_a_client_makes_of_it_is_refused_before_it_is_added(change, why):
    local = Local()
    sealed = local.clients.seal(np.zeros(10, np.int64))
    with pytest.raises(BadUpdate, match=why):
        local.server.check(sealed_of("shares", 10, change(content_of(sealed)), origin_of(0, 0)))


def test_an_upload_whose_share_was_given_is_refused_before_another_sum_is_formed():
    local = Local()
    uploads = [local.clients.seal(np.zeros(10, np.int64)) for _ in range(2)]
    local.server.add(uploads)
    with pytest.raises(BadUpdate, match="a share is given once"):
        local.server.check(uploads[0])


def test_an_upload_for_the_servers_of_another_run_is_refused():
    with pytest.raises(BadUpdate, match="cannot read the seed"):
        Local().server.check(Local().clients.seal(np.zeros(10, np.int64)))


def test_another_scheme_is_refused():
    with pytest.raises(BadUpdate, match="sealed by 'plaintext', not by 'shares'"):
        Local().server.check(PlaintextAggregation(CODEC, 3).seal(np.zeros(10, np.int64)))


# Processes.


def test_helping_servers_are_processes_of_their_own_with_keys_of_their_own():
    parties = build_parties(Shares(), 3)
    server = build_server_side(Shares(), 3, parties.material)
    names = {process.name: process.pid for process in active_children()}
    assert {"server 2 of 3", "server 3 of 3"} <= set(names) and os.getpid() not in names.values()
    sealed = [parties.clients.seal(np.array([1, -2, 3])) for _ in range(3)]
    for one in sealed:
        server.check(one)
    assert parties.clients.unseal(server.add(sealed)).tolist() == [3, -6, 9]
    parties.close()
    assert not {"server 2 of 3", "server 3 of 3"} & {process.name for process in active_children()}
    with pytest.raises(ChildProcessError, match="server 2 of 3 is gone"):
        server.check(sealed[0])


def test_a_helping_server_answers_nothing_else():
    (line, _) = (parties := build_parties(Shares(), 3)).material.lines
    for question in (b"o", b"y", b""):
        with pytest.raises(BadUpdate, match="server 2 of 3 gives no answer to that"):
            line.ask(question)
    parties.close()


@pytest.mark.parametrize("what", [CHECK, SUM])
def test_a_helping_server_survives_what_makes_no_sense(what):
    (line, _) = (parties := build_parties(Shares(), 3)).material.lines
    for content in (b"", b"abc", b"x" * 100, (2**40).to_bytes(8, "little") + b"\x04" + b"x" * 160):
        with pytest.raises(BadUpdate):
            line.ask(what, content)
    assert len(line.ask(PUBLIC)) == KEY
    parties.close()


def test_wrapping_is_bound_to_what_goes_with_it():
    helper = HelpingServer()
    public = helper.answer(PUBLIC, b"")
    assert wrapped(bytes(32), public, b"a" * 9) != wrapped(bytes(32), public, b"a" * 9)
