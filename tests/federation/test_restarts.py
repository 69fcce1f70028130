"""A site that is killed goes on where it was, and the server waits for it: the same bits, nothing accounted twice."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict

from ppml.federation.client import build_client_app
from ppml.federation.client_workers import FIRST_CLIENT_NODE, new_context
from ppml.federation.engines import reconnection as patience
from ppml.federation.engines.client_storage import remembering
from ppml.federation.engines.reconnection import PatientGrid
from ppml.federation.messages import ORDER, STATUS, RoundRequest, Status, pack_fields
from ppml.federation.server import FederatedServer
from ppml.federation.server_state import RoundFailed
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning.parameters import digest_of, flatten
from ppml.stages import federation_job as sites

from .test_engines import job_of, outcome

CLIENTS = 3


class KilledSites(InProcessGrid):
    """A grid whose sites lose their memory before each message, and lose every ``n``-th answer on the way."""

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
                # The answer is lost with the site, which is asked again.
                if not self._loses or self._count % self._loses:
                    break
            replies.append(reply)
        return replies


def trained(name: str, folder: Path, keep: bool, loses: int = 0):
    """Return model and events of a training whose sites are killed again and again."""
    job = str(job_of(name, folder))
    app = build_client_app(lambda context: sites.population(job, (0, 1, 2)))
    used = remembering(app, lambda: folder) if keep else app
    parts = sites.server(job)
    server = FederatedServer(parts.plan, parts.aggregator, lambda end: None, lambda line: None, parts.release)
    grid = KilledSites(used, loses)
    server.run(grid)
    accounts = server.accounts(grid)
    return accounts[0].model, [accounts[client].events for client in sorted(accounts)]


@pytest.mark.parametrize("name", ["private", "a part, scaffold"])
def test_sites_that_lose_memory_and_answers_come_to_the_bits_and_accounts_of_the_workflow(name, tmp_path):
    model, events = trained(name, tmp_path, keep=True, loses=3)
    assert model == digest_of(flatten(outcome(name).models[0]))
    assert events == outcome(name).events
    files = list(tmp_path.glob("client*.state"))
    assert len(files) == CLIENTS and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_without_a_memory_on_disk_such_sites_come_to_nothing(tmp_path):
    with pytest.raises(RoundFailed):
        trained("private", tmp_path, keep=False)


def order(number: int, kind: str = MessageType.TRAIN) -> Message:
    return Message(RecordDict({ORDER: pack_fields(RoundRequest(number, 0))}), dst_node_id=2, message_type=kind)


@pytest.fixture
def counting(tmp_path):
    """Return an app that keeps its state and counts how often it was run, and those counts."""
    InProcessGrid(None, 1)
    runs: list[int] = []

    def app(message: Message, context: Context) -> Message:
        runs.append(message.content[ORDER]["number"])
        context.state["seen"] = ConfigRecord({"rounds": len(context.state.get("seen", {"rounds": []})) and runs[:]})
        if runs[-1] == 13:
            return Message(Error(1, "failed"), reply_to=message)
        return Message(RecordDict({"answer": ConfigRecord({"of": runs[-1], "run": len(runs)})}), reply_to=message)

    return remembering(app, lambda: tmp_path), runs


def test_a_round_is_done_once_and_one_that_is_over_is_not_done_again(counting):
    app, runs = counting
    first = app(order(1), new_context(0, 1)).content["answer"]
    again = app(order(1), new_context(0, 1)).content["answer"]
    assert dict(first) == dict(again) == {"of": 1, "run": 1} and runs == [1]
    app(order(2), new_context(0, 1))
    late = app(order(1), new_context(0, 1))
    assert late.has_error() and "round 1 is over" in late.error.reason and runs == [1, 2]


def test_a_round_that_failed_is_tried_again_and_clients_and_runs_are_kept_apart(counting):
    app, runs = counting
    assert app(order(13), new_context(0, 1)).has_error()
    assert app(order(13), new_context(0, 1)).has_error() and runs == [13, 13]
    app(order(2), new_context(0, 2)), app(order(2), new_context(1, 2))
    other = new_context(0, 2)
    other.__dict__["run_id"] = 99
    app(order(2), other)
    assert runs == [13, 13, 2, 2, 2]


# The server's side.


class Away:
    """Flower's grid, where node 12 is away for a while, and loses what it was asked first."""

    def __init__(self, back_after: int, says: int = 2, error: bool = True) -> None:
        InProcessGrid(None, 1)
        self._back_after, self._says, self._error = back_after, says, error
        self._looks, self.pushed, self._pushed_at = 0, list[Message](), list[int]()

    def get_node_ids(self):
        self._looks += 1
        return [10, 11, 99] if 1 < self._looks <= self._back_after else [10, 11, 12, 99]

    def push_messages(self, messages):
        self.pushed += messages
        self._pushed_at += [self._looks] * len(messages)
        return [f"{len(self.pushed)}-{one.metadata.dst_node_id}" for one in messages]

    def pull_messages(self, identities):
        for identity in identities:
            place, node = map(int, identity.split("-"))
            asked = self.pushed[place - 1]
            asked.metadata.__dict__["_message_id"] = identity
            lost = node == 12 and self._pushed_at[place - 1] <= self._back_after
            if lost and self._error:
                reply = Message(Error(5, "the node is gone"), reply_to=asked)
                reply.metadata.__dict__["_src_node_id"] = 1
                yield reply
            elif not lost:
                status = Status({10: 0, 11: 1, 12: self._says}[node], 1, 0)
                reply = Message(RecordDict({STATUS: pack_fields(status)}), reply_to=asked)
                reply.metadata.__dict__["_src_node_id"] = node
                yield reply


def ask(away: Away, seconds: float = 60.0) -> tuple[list[int], list[str]]:
    said: list[str] = []
    grid = PatientGrid(away, {10: 0, 11: 1, 12: 2}, said.append)
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in (10, 11, 12)]
    return sorted(one.metadata.src_node_id for one in grid.send_and_receive(messages, timeout=seconds)), said


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patience, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(patience, "ASK_AGAIN_SECONDS", 0.05)


@pytest.mark.parametrize("error", [True, False], ids=["Flower says so", "nobody says so"])
def test_a_node_that_comes_back_is_asked_again_and_the_others_once(error):
    away = Away(back_after=4, error=error)
    assert ask(away) == ([10, 11, 12], [])
    asked = [one.metadata.dst_node_id for one in away.pushed]
    assert asked.count(12) >= 2 and (asked.count(10), asked.count(11)) == (1, 1)


def test_the_server_goes_on_without_a_node_that_stays_away():
    assert ask(Away(back_after=10**9), seconds=0.3) == ([10, 11], [])


def test_a_node_that_says_it_is_another_client_is_left_out_and_one_of_no_client_is_not_asked():
    away = Away(back_after=0, says=0)
    answers, said = ask(away)
    assert answers == [10, 11] and said == ["the node of client 2 says that it is client 0; it is left out"]
    assert PatientGrid(away, {10: 0}, said.append).get_node_ids() == [10]
