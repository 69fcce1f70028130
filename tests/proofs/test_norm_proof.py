"""The norm proof: true statements are accepted, planted faults are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from ppml.errors import InvalidUpdate
from ppml.proofs import norm_proof as norm_proof
from ppml.proofs.coin_tossing import CoinCommitment, joint_coin
from ppml.proofs.norm_bound import NormBound, squared_norm
from ppml.proofs.norm_proof import (
    COINS,
    POINT,
    PROJECTIONS,
    PROOF,
    UPDATE,
    Prover,
    UnprovableUpdate,
    Verifier,
    expand_share,
    reveal_sum,
    sum_shares,
)
from ppml.proofs.prime_field import PRIME, add, deserialize, serialize, subtract, to_elements, to_integers
from ppml.proofs.projection import project, signs
from ppml.proofs.square_proof import Proof, bit_wire_count, proof_length, wire_count

STATEMENT = NormBound(length=300, bound=1000)
SERVERS = 3

Change = Callable[[list[bytes]], list[bytes]]


def alone(parts: list[bytes]) -> list[bytes]:
    """Return the messages unchanged."""
    return parts


class Upload:
    """One upload whose messages a test can alter."""

    def __init__(self, statement: NormBound = STATEMENT, prover: type[Prover] = Prover) -> None:
        self.servers = [Verifier(statement, place) for place in range(SERVERS)]
        said = {use: [server.commitment(use) for server in self.servers] for use in COINS}
        for server in self.servers:
            for use in COINS:
                server.receive_commitments(use, said[use])
        self.client = prover(statement, said[PROJECTIONS])
        self.openings: list[bytes] = []

    def share(self, update: np.ndarray, change: Change = alone) -> list[bytes]:
        parts = change(self.client.shares(update))
        for server, part in zip(self.servers, parts, strict=True):
            server.receive_share(part)
        shown = [server.reveal_coin(PROJECTIONS) for server in self.servers]
        for server in self.servers:
            server.project(shown)
        return shown

    def prove(self, shown: list[bytes], change: Change = alone) -> None:
        for server, part in zip(self.servers, change(self.client.proof(shown)), strict=True):
            server.receive_proof(part)

    def verify(self, change: Change = alone) -> Upload:
        shown = [server.reveal_coin(POINT) for server in self.servers]
        self.openings = change([server.opening(shown) for server in self.servers])
        reasons = {self._reason(server) for server in self.servers}
        assert len(reasons) == 1, "all servers come to the same"
        if (reason := reasons.pop()) is not None:
            raise InvalidUpdate(reason)
        return self

    def _reason(self, server: Verifier) -> str | None:
        try:
            server.verify(self.openings)
        except InvalidUpdate as reason:
            return str(reason)
        return None

    def run(self, update: np.ndarray, share: Change = alone, proof: Change = alone, opening: Change = alone) -> Upload:
        self.prove(self.share(update, share), proof)
        return self.verify(opening)

    @property
    def total(self) -> np.ndarray:
        """Sum of the servers' openings."""
        values = [deserialize(one, len(one) // 8) for one in self.openings]
        return add(add(values[0], values[1]), values[2])


class Cheat(Prover):
    """A client that proves a false statement with the low bits of its numbers."""

    def _require_statement(self, update):
        pass

    def _bits(self, update, seed):
        statement = self._statement
        return self._encode_bits(to_integers(project(seed, statement.rows, update)) + statement.interval, update)


def at_the_bound(length: int, bound: int) -> np.ndarray:
    """Return an update whose squares add up to the squared bound."""
    update = np.zeros(length, np.int64)
    update[: length // 2] = math.isqrt(bound**2 // length)
    for place in range(length // 2, length):
        update[place] = math.isqrt(bound**2 - squared_norm(update))
    assert squared_norm(update[: length - 1]) == bound**2
    return update * np.where(np.arange(length) % 2, -1, 1)


def drawn_update(number: int, statement: NormBound = STATEMENT, norm: float = 0.99) -> np.ndarray:
    values = np.random.default_rng(number).normal(size=statement.length)
    return np.rint(values / np.linalg.norm(values) * norm * statement.bound).astype(np.int64)


# Accepted updates.


@pytest.mark.parametrize("length", [1, 127, 128, 129, 5000])
@pytest.mark.parametrize("bound", [1, 1000, 2**20])
def test_update_within_bound_is_accepted(length, bound):
    statement = NormBound(length, bound)
    update = drawn_update(length, statement, 0.9) if bound > 1 else np.eye(1, length, dtype=np.int64)[0]
    upload = Upload(statement).run(update)
    assert np.array_equal(reveal_sum([server.share for server in upload.servers]), update)


UPDATES = {
    "nothing": np.zeros(300, np.int64),
    "at the bound, one value": np.eye(1, 300, 7, dtype=np.int64)[0] * -1000,
    "at the bound, many values": at_the_bound(300, 1000),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_update_at_bound_is_accepted(update):
    Upload().run(update)


def test_update_of_model_size_is_accepted():
    statement = NormBound.of(26_106, 1.0, 20)
    upload = Upload(statement).run(drawn_update(1, statement, 0.999))
    assert proof_length(statement) * 8 < 0.25 * 26_106 * 8
    assert np.array_equal(reveal_sum([server.share for server in upload.servers]), drawn_update(1, statement, 0.999))


# Refused updates.


def over_by(steps: int) -> np.ndarray:
    """Return an update whose squares exceed the squared bound by ``steps``."""
    update = at_the_bound(300, 1000)
    update[np.flatnonzero(update == 0)[:steps]] = 1
    assert squared_norm(update) == 1000**2 + steps
    return update


def squares_that_wrap_round() -> np.ndarray:
    """Return two large values whose squares add up to 4 modulo the prime."""
    for first in range(2**50, 2**50 + 100):
        root = pow(4 - first**2, (PRIME + 1) // 4, PRIME)
        if (root**2 + first**2) % PRIME == 4:
            update = np.zeros(300, np.int64)
            update[[3, 200]] = to_integers(np.array([first, root], dtype=np.uint64))
            return update
    raise AssertionError("every second number has a root")


FALSE = {
    "squares one over": (over_by(1), "norm of the update exceeds the bound"),
    "one step over": (np.eye(1, 300, dtype=np.int64)[0] * 1001, "norm of the update exceeds the bound"),
    "twice the bound": (drawn_update(1, norm=2.0), "norm of the update exceeds the bound"),
    "a thousand times": (drawn_update(2, norm=1000.0), "a random projection"),
    "squares that wrap round": (squares_that_wrap_round(), "a random projection"),
    "half the field": (np.full(300, PRIME // 2), "a random projection"),
}


@pytest.mark.parametrize(("update", "why"), FALSE.values(), ids=FALSE)
def test_update_above_bound_is_refused(update, why):
    with pytest.raises(InvalidUpdate, match=why):
        Upload(prover=Cheat).run(update)
    with pytest.raises(UnprovableUpdate, match="the statement is false"):
        Upload().run(update)


def test_wrapped_squares_pass_without_projections(monkeypatch):
    """The fault that projections prevent, planted: servers ignore the projections."""
    honest = Verifier._zeros

    def blind(self: Verifier, proof: Proof) -> np.ndarray:
        zeros = honest(self, proof)
        zeros[:-1] = 0
        return zeros

    monkeypatch.setattr(Verifier, "_zeros", blind)
    upload = Upload(prover=Cheat).run(squares_that_wrap_round())
    assert np.abs(reveal_sum([server.share for server in upload.servers])).max() >= 2**50


class NoBits(Cheat):
    """Write a number in place of its lowest bit."""

    def _encode_bits(self, rows, update):
        bits = super()._encode_bits(rows, update)
        lines = bits[: -self._statement.slack_bits].reshape(len(rows), -1)
        lines[:] = 0
        lines[:, 0] = to_elements(rows)
        return bits


class NoSlack(Cheat):
    """Write the slack, which is negative, in place of a bit."""

    def _encode_bits(self, rows, update):
        bits = super()._encode_bits(rows, update)
        left = np.zeros(self._statement.slack_bits, np.uint64)
        left[0] = PRIME + self._statement.bound**2 - squared_norm(to_integers(update))
        return np.concatenate([bits[: -len(left)], left])


@pytest.mark.parametrize(
    ("cheat", "update"), [(NoBits, squares_that_wrap_round()), (NoSlack, over_by(1))], ids=["projections", "slack"]
)
def test_wrong_bits_are_refused(cheat, update):
    with pytest.raises(InvalidUpdate, match="the bits of the proof are not 0 or 1"):
        Upload(prover=cheat).run(update)


# Altered shares, proofs and openings.


def shifted(content: bytes, place: int, before: int = 0) -> bytes:
    """Return serialized elements with one incremented element after ``before`` bytes."""
    values = deserialize(content[before:], len(content[before:]) // 8).copy()
    values[place] = add(values[place], np.uint64(1))
    return content[:before] + serialize(values)


PLACES = np.cumsum(
    [
        0,
        bit_wire_count(STATEMENT) * 128,
        bit_wire_count(STATEMENT),
        wire_count(STATEMENT),
        bit_wire_count(STATEMENT) * 129,
    ]
)
DIFFER = "the squares of the update differ"
ALTERED: dict[str, tuple[str, int, Callable[[bytes], bytes], str | None]] = {
    **{f"share at {place}": ("share", 0, partial(shifted, place=place), DIFFER) for place in (0, 150, 299)},
    "seed": ("share", 2, lambda part: bytes(32), "the squares of the update"),
    "bits": ("proof", 0, partial(shifted, place=PLACES[0], before=32), "bits"),
    "bit masks": ("proof", 0, partial(shifted, place=PLACES[1], before=32), "bits"),
    "wire masks": ("proof", 0, partial(shifted, place=PLACES[2], before=32), "squares"),
    "bit values": ("proof", 0, partial(shifted, place=PLACES[3], before=32), "bits"),
    "square values": ("proof", 0, partial(shifted, place=PLACES[4] + 7, before=32), "squares"),
    **{
        f"opening of {server} at {place}": ("opening", server, partial(shifted, place=place), None)
        for server in range(SERVERS)
        for place in (0, wire_count(STATEMENT), wire_count(STATEMENT) + 1, -98, -1)
    },
    "a share cut off": ("share", 0, lambda part: part[:-8], None),
    "a longer share": ("share", 0, lambda part: part + bytes(8), None),
    "a short seed": ("share", 1, lambda part: part[:-1], None),
    "no number": ("share", 0, lambda part: b"\xff" * 8 + part[8:], None),
    "a proof cut off": ("proof", 0, lambda part: part[:-8], None),
    "a longer proof": ("proof", 0, lambda part: part + bytes(8), None),
    "no proof": ("proof", 0, lambda part: b"", None),
    "an opening cut off": ("opening", 0, lambda part: part[:-8], r"bytes for \d+ numbers"),
}


@pytest.mark.parametrize(("message", "server", "change", "why"), ALTERED.values(), ids=ALTERED)
def test_altered_message_is_refused(message, server, change, why):
    def altered(parts: list[bytes]) -> list[bytes]:
        return [change(part) if place == server else part for place, part in enumerate(parts)]

    with pytest.raises(InvalidUpdate, match=why):
        Upload().run(drawn_update(1), **{message: altered})


def test_client_refuses_update_of_wrong_length():
    with pytest.raises(UnprovableUpdate):
        Upload().run(np.zeros(299, np.int64))


# Proofs of other statements.


class OfAnother(Prover):
    """A client that shares one update and proves another."""

    def shares(self, update):
        parts = super().shares(update)
        self._update = to_elements(drawn_update(77))
        return parts


def test_proof_of_other_update_is_refused():
    with pytest.raises(InvalidUpdate):
        Upload(prover=OfAnother).run(drawn_update(1))


def test_proof_for_other_projections_is_refused():
    """The proof is sent unchanged first, then with the new projections and the old proof split for the new seeds."""
    first, second, third = Upload(), Upload(), Upload()
    old: list[bytes] = []
    first.prove(first.share(drawn_update(1)), lambda parts: old.extend(parts) or parts)
    first.verify()
    shown = second.share(drawn_update(1))
    with pytest.raises(InvalidUpdate, match="a proof is for the projections of its update"):
        second.prove(shown, lambda parts: old)

    shown = third.share(drawn_update(1))
    count = proof_length(STATEMENT)
    whole = deserialize(old[0][32:], count)
    for seed in first.client._seeds:
        whole = add(whole, expand_share(seed, PROOF, count))
    for seed in third.client._seeds:
        whole = subtract(whole, expand_share(seed, PROOF, count))
    third.prove(shown, lambda parts: [parts[0][:32] + serialize(whole), *parts[1:]])
    with pytest.raises(InvalidUpdate, match="a random projection"):
        third.verify()


def test_servers_open_nothing_for_other_projections():
    upload = Upload()
    shown = upload.share(drawn_update(1))
    with pytest.raises(InvalidUpdate, match="a proof is for the projections of its update"):
        upload.prove(shown, lambda parts: [parts[0], bytes(32), parts[2]])
    with pytest.raises(InvalidUpdate, match="a coin is not revealed before"):
        upload.servers[1].reveal_coin(POINT)


def test_client_shares_and_proves_once():
    upload = Upload()
    shown = upload.share(drawn_update(1))
    with pytest.raises(RuntimeError, match="seeds serve one update"):
        upload.client.shares(drawn_update(2))
    upload.prove(shown)
    with pytest.raises(RuntimeError, match="proven once"):
        upload.client.proof(shown)
    with pytest.raises(InvalidUpdate, match="an update is shared once"):
        upload.servers[0].receive_share(serialize(to_elements(drawn_update(2))))


# Joint coins.


def test_no_coin_is_revealed_before_tested_values():
    upload = Upload()
    for use in COINS:
        with pytest.raises(InvalidUpdate, match="a coin is not revealed before"):
            upload.servers[0].reveal_coin(use)
    upload.share(drawn_update(1))
    with pytest.raises(InvalidUpdate, match="a coin is not revealed before"):
        upload.servers[0].reveal_coin(POINT)


def test_no_share_is_accepted_before_commitments():
    with pytest.raises(InvalidUpdate, match="after the servers' commitments"):
        Verifier(STATEMENT, 1).receive_share(bytes(32))


def test_server_commits_once():
    server = Verifier(STATEMENT, 0)
    server.receive_commitments(POINT, [b"a", b"b", b"c"])
    with pytest.raises(InvalidUpdate, match="a server commits to a coin once"):
        server.receive_commitments(POINT, [b"a", b"b", b"d"])


def test_coin_without_matching_commitment_is_refused():
    upload = Upload()
    shown = upload.share(drawn_update(1))
    with pytest.raises(InvalidUpdate, match="does not match its commitment"):
        upload.client.proof([shown[0], shown[1], bytes(32)])


def test_copied_coin_is_refused():
    first, second = CoinCommitment(0, PROJECTIONS), CoinCommitment(1, PROJECTIONS)
    joint_coin([first.commitment, second.commitment], [first.nonce, second.nonce], PROJECTIONS)
    for commitments, nonces, use in (
        ([first.commitment] * 2, [first.nonce] * 2, PROJECTIONS),
        ([first.commitment], [first.nonce, second.nonce], PROJECTIONS),
        ([first.commitment, second.commitment], [first.nonce, second.nonce], POINT),
    ):
        with pytest.raises(InvalidUpdate):
            joint_coin(commitments, nonces, use)


# Random projections.


@pytest.mark.parametrize("length", [1, 2047, 2048, 2049, 5000])
def test_projections_are_exact_and_linear(length):
    seed = bytes(31) + b"r"
    update = np.random.default_rng(length).integers(-(2**59), 2**59, length)
    blocks = [signs(seed, number, 5) for number in range(-(-length // 2048))]
    wanted = np.concatenate(blocks, axis=1)[:, :length].astype(np.int64).astype(object) @ update.astype(object) % PRIME
    assert project(seed, 5, to_elements(update)).tolist() == wanted.tolist()
    share = expand_share(bytes(32), UPDATE, length)
    parts = [project(seed, 5, part) for part in (share, subtract(to_elements(update), share))]
    assert add(*parts).tolist() == wanted.tolist()


def test_signs_have_documented_distribution():
    values, counts = np.unique(signs(bytes(32), 0, 96), return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert np.allclose(counts / counts.sum(), [0.25, 0.5, 0.25], atol=0.01)


FAR = {
    "one value": lambda interval: np.eye(1, 2048, dtype=np.int64)[0] * 2 * interval,
    "one value, half the field": lambda interval: np.eye(1, 2048, dtype=np.int64)[0] * (PRIME // 2),
    "two values that cancel": lambda interval: (
        np.eye(1, 2048, dtype=np.int64)[0] * (PRIME // 2) - np.eye(1, 2048, 1, dtype=np.int64)[0] * (PRIME // 2 - 1)
    ),
    "many values": lambda interval: np.full(2048, int(16 * interval / math.sqrt(2048)) + 1),
}


@pytest.mark.parametrize("far", FAR.values(), ids=FAR)
def test_projection_of_large_update_leaves_interval(far):
    """The bound on the probability of a hit is .672; over 20,000 projections a deviation is .0033."""
    interval, rows = STATEMENT.interval, 20_000
    found = to_integers(project(bytes(32), rows, to_elements(far(interval))))
    hit = np.mean((found >= -interval) & (found < interval))
    assert hit < 1 - (127 / 128) ** 2 / 3 + 5 * 0.0033


def test_error_probabilities_are_as_documented():
    assert -52.7 < math.log2(STATEMENT.soundness_error) < -52.6
    largest = max(NormBound(100, bound).completeness_error for bound in range(1, 3000))
    assert largest < 2**-44


@pytest.mark.parametrize("wrong", [(100, 12 * 2**20), (2**40, 2**20)])
def test_statement_beyond_field_is_refused(wrong):
    with pytest.raises(OverflowError, match="squares may wrap around"):
        NormBound(*wrong)


def test_empty_statement_is_refused():
    for length, bound in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="both are at least 1"):
            NormBound(length, bound)
    assert NormBound(26_106, 8 * 2**20).interval == 2**26, "a norm of 8 on the default grid has room"


# Visibility.

WIDE = NormBound(length=8_000, bound=2**20, points=8)
"""Many short wires, of which as many values are opened."""


def views(update: np.ndarray, uploads: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return the opened wires, and the shares of the first two servers, for some uploads."""
    lines, known = [], []
    for _ in range(uploads):
        upload = Upload(WIDE)
        kept: list[bytes] = []
        upload.run(update, proof=lambda parts, kept=kept: kept.extend(parts) or parts)
        values, ends = upload.total, (wire_count(WIDE), wire_count(WIDE) + 1)
        lines += [values[: ends[0]], values[ends[1] : -WIDE.rows - 2]]
        flat = deserialize(kept[0][32:], proof_length(WIDE))
        second = expand_share(upload.client._seeds[0], PROOF, len(flat))
        known += [add(upload.servers[0].share, upload.servers[1].share), add(flat, second)]
    return np.concatenate(lines), np.concatenate(known)


def check_uniform(values: np.ndarray) -> None:
    """Chi-squared over the lowest 8 bits and the highest: 255 degrees of freedom, mean 255, deviation 22.6."""
    for bits in (0, 53):
        counts = np.bincount((values >> np.uint64(bits)) & np.uint64(255), minlength=256)
        expected = len(values) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * 22.6


SEEN = {"nothing": np.zeros(8_000, np.int64), "at the bound": at_the_bound(8_000, 2**20)}


@pytest.mark.parametrize("update", SEEN.values(), ids=SEEN)
def test_openings_and_shares_are_uniform(update):
    for values in views(update):
        check_uniform(values)


@pytest.mark.parametrize("update", SEEN.values(), ids=SEEN)
def test_other_openings_follow_from_wires(update):
    upload = Upload(WIDE).run(update)
    values, ends = upload.total.astype(object), (wire_count(WIDE), wire_count(WIDE) + 1)
    assert (values[: ends[0]] ** 2).sum() % PRIME == values[ends[0]]
    assert not upload.total[-WIDE.rows - 1 :].any()
    factors, bits = upload.servers[0]._point.factors, values[ends[1] : -WIDE.rows - 2]
    assert (factors.astype(object) * (bits**2 - bits)).sum() % PRIME == values[-WIDE.rows - 2]


def test_wire_without_mask_is_detected(monkeypatch):
    honest = norm_proof.prove

    def bare(*given):
        zeros = np.zeros(10**4, np.uint64)
        monkeypatch.setattr("ppml.proofs.square_proof.uniform_elements", lambda seed, count: zeros[:count])
        proof = honest(*given)
        monkeypatch.undo()
        return proof

    upload = Upload(WIDE)
    shown = upload.share(SEEN["nothing"])
    monkeypatch.setattr(norm_proof, "prove", bare)
    upload.prove(shown)
    upload.verify()
    assert not upload.total[: wire_count(WIDE)].any(), "an update of zeros shows itself"


def test_two_uploads_of_update_share_no_values():
    first, second = (Upload().run(drawn_update(1)) for _ in range(2))
    for one, other in zip(first.servers, second.servers, strict=True):
        assert not (one.share == other.share).any()
    count = wire_count(STATEMENT)
    assert not (first.total[:count] == second.total[:count]).any()


# Sums.


def test_invalid_client_is_excluded_from_sum():
    values = [drawn_update(number) for number in range(4)]
    values[2] = squares_that_wrap_round()
    accepted = []
    for value in values:
        upload = Upload(prover=Cheat)
        try:
            accepted.append(upload.run(value))
        except InvalidUpdate:
            continue
    assert len(accepted) == 3
    sums = [sum_shares([upload.servers[place].share for upload in accepted]) for place in range(SERVERS)]
    assert np.array_equal(reveal_sum(sums), values[0] + values[1] + values[3])


def test_sum_of_one_update_is_not_revealed():
    upload = Upload().run(drawn_update(1))
    with pytest.raises(InvalidUpdate, match="fewer than 2 updates would reveal one"):
        sum_shares([upload.servers[0].share])
