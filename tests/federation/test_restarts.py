"""A killed site continues after its restart, and the server waits: the same bits, no round accounted twice."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict

from ppml.federation.client import build_client_app
from ppml.federation.client_workers import FIRST_CLIENT_NODE, new_context
from ppml.federation.engines import reconnection
from ppml.federation.engines.client_storage import with_storage
from ppml.federation.engines.reconnection import RetryingGrid
from ppml.federation.messages import REQUEST, STATUS, RoundRequest, Status, pack_fields
from ppml.federation.server import FederatedServer
from ppml.federation.server_state import RoundFailed
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning.parameters import digest_of, flatten
from ppml.stages import federation_job

from .test_engines import job_of, outcome

CLIENTS = 3


class KilledSites(InProcessGrid):
    """A grid whose sites lose their memory before each message, and every ``n``-th reply."""

    def __init__(self, app, loses: int = 0) -> None:
        super().__init__(app, CLIENTS)
        self._app, self._loses, self._count = app, loses, 0

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            client = message.metadata.dst_node_id - FIRST_CLIENT_NODE
            while True:
                reply = self._app(message, new_context(client, CLIENTS))
                self._count += 1
                # The reply is lost with the site, so send the message again.
                if not self._loses or self._count % self._loses:
                    break
            replies.append(reply)
        return replies


def train_with_kills(name: str, folder: Path, keep: bool, loses: int = 0):
    """Return model and events of a training whose sites are killed before each message."""
    job = str(job_of(name, folder))
    app = build_client_app(lambda context: federation_job.load_clients(job, (0, 1, 2)))
    used = with_storage(app, lambda: folder) if keep else app
    own = federation_job.load_server(job)
    server = FederatedServer(own.settings, own.aggregator, lambda end: None, lambda line: None, own.sum_mechanism)
    grid = KilledSites(used, loses)
    server.run(grid)
    accounts = server.collect_accounts(grid)
    return accounts[0].model, [accounts[client].events for client in sorted(accounts)]


@pytest.mark.parametrize("name", ["private", "a part, scaffold"])
def test_killed_sites_repeat_bits_and_accounts_of_the_workflow(name, tmp_path):
    model, events = train_with_kills(name, tmp_path, keep=True, loses=3)
    assert model == digest_of(flatten(outcome(name).models[0]))
    assert events == outcome(name).events
    files = list(tmp_path.glob("client*.state"))
    assert len(files) == CLIENTS and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_killed_sites_without_storage_fail(tmp_path):
    with pytest.raises(RoundFailed):
        train_with_kills("private", tmp_path, keep=False)


def request(number: int, kind: str = MessageType.TRAIN) -> Message:
    return Message(RecordDict({REQUEST: pack_fields(RoundRequest(number, 0))}), dst_node_id=2, message_type=kind)


@pytest.fixture
def counting(tmp_path):
    """Return an app with storage, and the list of its calls."""
    InProcessGrid(None, 1)
    runs: list[int] = []

    def app(message: Message, context: Context) -> Message:
        runs.append(message.content[REQUEST]["number"])
        context.state["seen"] = ConfigRecord({"rounds": len(context.state.get("seen", {"rounds": []})) and runs[:]})
        if runs[-1] == 13:
            return Message(Error(1, "failed"), reply_to=message)
        return Message(RecordDict({"answer": ConfigRecord({"of": runs[-1], "run": len(runs)})}), reply_to=message)

    return with_storage(app, lambda: tmp_path), runs


def test_app_trains_once_a_round(counting):
    app, runs = counting
    first = app(request(1), new_context(0, 1)).content["answer"]
    again = app(request(1), new_context(0, 1)).content["answer"]
    assert dict(first) == dict(again) == {"of": 1, "run": 1} and runs == [1]
    app(request(2), new_context(0, 1))
    late = app(request(1), new_context(0, 1))
    assert late.has_error() and "round 1 is over" in late.error.reason and runs == [1, 2]


def test_failed_round_is_repeated_and_clients_have_their_own_files(counting):
    app, runs = counting
    assert app(request(13), new_context(0, 1)).has_error()
    assert app(request(13), new_context(0, 1)).has_error() and runs == [13, 13]
    app(request(2), new_context(0, 2)), app(request(2), new_context(1, 2))
    other = new_context(0, 2)
    other.__dict__["run_id"] = 99
    app(request(2), other)
    assert runs == [13, 13, 2, 2, 2]


# The server.


class DisconnectingGrid:
    """A Flower grid whose node 12 is disconnected for a while and loses its first request."""

    def __init__(self, reconnects_after: int, claims: int = 2, error: bool = True) -> None:
        InProcessGrid(None, 1)
        self._reconnects_after, self._claims, self._error = reconnects_after, claims, error
        self._looks, self.pushed, self._pushed_at = 0, list[Message](), list[int]()

    def get_node_ids(self):
        self._looks += 1
        return [10, 11, 99] if 1 < self._looks <= self._reconnects_after else [10, 11, 12, 99]

    def push_messages(self, messages):
        self.pushed += messages
        self._pushed_at += [self._looks] * len(messages)
        return [f"{len(self.pushed)}-{one.metadata.dst_node_id}" for one in messages]

    def pull_messages(self, identities):
        for identity in identities:
            place, node = map(int, identity.split("-"))
            asked = self.pushed[place - 1]
            asked.metadata.__dict__["_message_id"] = identity
            lost = node == 12 and self._pushed_at[place - 1] <= self._reconnects_after
            if lost and self._error:
                reply = Message(Error(5, "the node is gone"), reply_to=asked)
                reply.metadata.__dict__["_src_node_id"] = 1
                yield reply
            elif not lost:
                status = Status({10: 0, 11: 1, 12: self._claims}[node], 1, 0)
                reply = Message(RecordDict({STATUS: pack_fields(status)}), reply_to=asked)
                reply.metadata.__dict__["_src_node_id"] = node
                yield reply


def ask(away: DisconnectingGrid, seconds: float = 60.0) -> tuple[list[int], list[str]]:
    lines: list[str] = []
    grid = RetryingGrid(away, {10: 0, 11: 1, 12: 2}, lines.append)
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in (10, 11, 12)]
    return sorted(one.metadata.src_node_id for one in grid.send_and_receive(messages, timeout=seconds)), lines


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(reconnection, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(reconnection, "RESEND_SECONDS", 0.05)


@pytest.mark.parametrize("error", [True, False], ids=["error reply", "no reply"])
def test_reconnected_node_gets_its_request_again(error):
    away = DisconnectingGrid(reconnects_after=4, error=error)
    assert ask(away) == ([10, 11, 12], [])
    asked = [one.metadata.dst_node_id for one in away.pushed]
    assert asked.count(12) >= 2 and (asked.count(10), asked.count(11)) == (1, 1)


def test_missing_node_does_not_block_the_server():
    assert ask(DisconnectingGrid(reconnects_after=10**9), seconds=0.3) == ([10, 11], [])


def test_reply_of_another_client_is_ignored():
    away = DisconnectingGrid(reconnects_after=0, claims=0)
    answers, lines = ask(away)
    assert answers == [10, 11]
    assert len(lines) == 1 and "client 2" in lines[0] and "client 0" in lines[0]
    assert RetryingGrid(away, {10: 0}, lines.append).get_node_ids() == [10]
