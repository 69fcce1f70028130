"""Trainings with arbitrary records of one client of three: none ends, and each sum of the others is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.federation import reply_validation as replies
from ppml.federation.messages import (
    ACCOUNT,
    METRICS,
    STATUS,
    UPDATE,
    Status,
    pack_events,
    pack_fields,
    pack_update,
    unpack_request,
    unpack_status,
)
from ppml.federation.reply_validation import Account
from ppml.federation.server import FederatedServer, RoundResult, ServerSettings
from ppml.federation.server_state import RoundFailed
from ppml.federation.simulation_grid import SERVER_NODE

from .mutations import Mutator, planted
from .targets import CODEC

ROUNDS, LENGTH, HOSTILE = 3, 5, 1
MODEL = "ab" * 32
EVENT = MechanismEvent(0.1, 1.0, 3, 1.0)
SIDE = PlaintextAggregation(CODEC, 3)


def update_of(client: int, number: int) -> np.ndarray:
    """Return the reply of a client in a round."""
    return np.arange(LENGTH) + 100 * client + 1000 * number


class Summing(PlaintextAggregation):
    """An observer that records the sums."""

    def __init__(self) -> None:
        super().__init__(CODEC, 3)
        self.sums: list[np.ndarray] = []

    def add(self, sealed: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        total = super().add(sealed)
        self.sums.append(self.reveal(total))
        return total


class HostileGrid:
    """Three clients that reply at once; the replies of one are changed, repeated and reordered."""

    def __init__(self, mutator: Mutator) -> None:
        # Flower's messages need a sender.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SERVER_NODE
        self._mutator = mutator

    def get_node_ids(self) -> Iterable[int]:
        return [2, 3, 4]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        rng, arriving = self._mutator.rng, list[Message]()
        for message in messages:
            client = message.metadata.dst_node_id - 2
            reply = honest(message, client)
            arriving += [reply] if client != HOSTILE else [self._changed(message, reply)] * rng.choice([0, 1, 1, 1, 3])
            if rng.random() < 0.02:
                # From a node without a request.
                arriving.append(Message(reply.content, reply_to=Message(RecordDict(), 99, MessageType.TRAIN)))
        rng.shuffle(arriving)
        return arriving

    def _changed(self, message: Message, reply: Message) -> Message:
        rng = self._mutator.rng
        if rng.random() < 0.3:
            return reply
        if rng.random() < 0.1:
            return Message(Error(rng.choice([0, 1, 7]), rng.choice(["", "x" * 10**6, "a\nb\x1b[2K"])), reply_to=message)
        content = self._mutator.content(reply.content)
        if message.metadata.message_type == MessageType.QUERY:
            # The engine maps nodes to clients; this test trusts the node's claim.
            with suppress(Exception):
                if unpack_status(content).client in (0, 2):
                    return reply
        changed = Message(RecordDict(), reply_to=message)
        changed.content.__dict__["_data"].update(content.__dict__["_data"])
        return changed


def honest(message: Message, client: int) -> Message:
    """Return the reply of an honest client."""
    kind, number = message.metadata.message_type, unpack_request(message.content).number
    applied = {MessageType.QUERY: -1, MessageType.TRAIN: number - 1}.get(kind, number)
    content = RecordDict({STATUS: pack_fields(Status(client, number, applied))})
    if kind == MessageType.TRAIN:
        content[UPDATE] = pack_update(SIDE.protect(update_of(client, number)))
    elif kind == MessageType.EVALUATE:
        content[METRICS] = MetricRecord({"loss": 0.5, "accuracy": 0.75})
    elif kind == f"{MessageType.QUERY}.{ACCOUNT}":
        content[ACCOUNT] = pack_events([EVENT])
        content[ACCOUNT]["model"] = MODEL
    return Message(content, reply_to=message)


def server_of(
    aggregator: PlaintextAggregation, on_end: Callable[[RoundResult], None], notice: Callable[[str], None]
) -> FederatedServer:
    """Return the server of a training with accounts."""
    plan = ServerSettings(ROUNDS, 3, np.zeros(4, np.float32), LENGTH, lambda number: range(3), accounted=True)
    return FederatedServer(plan, aggregator, on_end, notice)


def train(seed: int) -> tuple[list[np.ndarray], list[RoundResult], dict[int, Account], list[str]]:
    """Return sums, rounds, accounts and notices of a training with a hostile client."""
    summing, ends, notices, grid = Summing(), list[RoundResult](), list[str](), HostileGrid(Mutator(seed))
    server = server_of(summing, ends.append, notices.append)
    server.run(grid)  # type: ignore[arg-type]
    return summing.sums, ends, server.collect_accounts(grid), notices  # type: ignore[arg-type]


def check_training(seed: int) -> bool:
    """Check one training; return whether the server excluded a reply."""
    sums, ends, accounts, notices = train(seed)
    assert len(sums) == len(ends) == ROUNDS
    for number, (total, end) in enumerate(zip(sums, ends, strict=True), start=1):
        of_hostile = total - update_of(0, number) - update_of(2, number)
        # An accepted reply counts as any value that a client may send.
        assert end.clients == 3 or not of_hostile.any()
        assert np.abs(of_hostile).max() <= CODEC.clip / CODEC.step
        assert end.server_state.known[HOSTILE] <= number and 0 <= end.accuracy <= 1
    assert {0, 2} <= accounts.keys() and {accounts[client].model for client in accounts} == {MODEL}
    assert accounts[0].events == accounts[2].events == (EVENT,)
    assert all("\n" not in line and len(line) < 500 for line in notices)
    return bool(notices)


def check_trainings(count: int, seed: int) -> str:
    """Run ``count`` trainings and return their results in words."""
    slowest, noticed = 0.0, 0
    for number in range(count):
        started = time.process_time()
        noticed += check_training(seed + number)
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 1 and noticed > count // 2
    return f"records: {count} trainings, {noticed} with something left out, slowest {1e3 * slowest:.0f} ms"


def test_no_record_ends_a_training() -> None:
    check_trainings(300, seed=5)


def test_unguarded_record_parsing_ends_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "PARSE_ERRORS", ())
    with pytest.raises((TypeError, ValueError, KeyError, AttributeError, ArithmeticError)):
        check_trainings(300, seed=5)


# Named accounts.


class Saying(HostileGrid):
    """Let the hostile client send this account, and be honest otherwise."""

    def __init__(self, account: object) -> None:
        super().__init__(Mutator(0))
        self._account = account

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        answers = [honest(message, message.metadata.dst_node_id - 2) for message in messages]
        for reply in answers:
            if ACCOUNT in reply.content and reply.metadata.src_node_id - 2 == HOSTILE:
                planted(reply.content, ACCOUNT, self._account)
        return answers


def account(**columns: object) -> ConfigRecord:
    """Return an account with other columns."""
    record = pack_events([EVENT])
    for name, value in {"model": MODEL, **columns}.items():
        planted(record, name, value)
    return record


ACCOUNTS = {
    "a model that is a list": account(model=[1, 2]),
    "a model that is no digest": account(model="x" * 64),
    "another model": account(model="cd" * 32),
    "no number": account(noise_multiplier=[float("nan")]),
    "noise without end": account(noise_multiplier=[float("inf")]),
    "a rate above 1": account(sample_rate=[1.5]),
    "a rate in words": account(sample_rate=["often"]),
    "steps without end": account(steps=[10**400]),
    "negative steps": account(steps=[-3]),
    "columns of different length": account(steps=[1, 2]),
    "a column that is none": account(steps=3),
    "another sampler": account(sampler=["shuffle"]),
    "a source that is none": account(noise_source=[[1]]),
    "no account": None,
    "a number": 7,
}


@pytest.mark.parametrize("given", ACCOUNTS.values(), ids=ACCOUNTS)
def test_invalid_account_is_named_and_training_completes(given: object) -> None:
    notices = list[str]()
    server = server_of(SIDE, lambda end: None, notices.append)
    grid = Saying(given)
    server.run(grid)  # type: ignore[arg-type]
    assert server.collect_accounts(grid) == dict.fromkeys((0, 2), Account((EVENT,), MODEL))  # type: ignore[arg-type]
    assert len(notices) == 2 and notices[0].startswith("client 1: ")
    assert notices[1] == "client 1 reports no valid account of its training; no epsilon can be stated for it"


def test_training_without_majority_model_fails() -> None:
    class Split(Saying):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            answers = super().send_and_receive(messages)
            return [reply for reply in answers if ACCOUNT not in reply.content or reply.metadata.src_node_id < 4]

    server, grid = server_of(SIDE, lambda end: None, lambda line: None), Split(account(model="cd" * 32))
    server.run(grid)  # type: ignore[arg-type]
    with pytest.raises(RoundFailed, match="different models: at most 1 of 2"):
        server.collect_accounts(grid)  # type: ignore[arg-type]
