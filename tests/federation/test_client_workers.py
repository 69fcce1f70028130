"""Clients in a process of their own: how it ends."""

from __future__ import annotations

import signal
import time

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ppml.federation.client_workers import FIRST_CLIENT_NODE, ForkedWorker, new_context
from ppml.federation.simulation_grid import InProcessGrid

NODE = FIRST_CLIENT_NODE


def site(seconds: float) -> ForkedWorker:
    """Return one that has a client which takes its time."""
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        time.sleep(seconds)
        return Message(RecordDict({"seen": ConfigRecord({"node": message.metadata.dst_node_id})}), reply_to=message)

    return ForkedWorker(app, {NODE: new_context(0, 1)}, lambda clients: None)


@pytest.fixture
def question() -> Message:
    """Return a question to the client."""
    # Which makes this process the one that Flower's messages are from.
    InProcessGrid(ClientApp(), 1)
    return Message(RecordDict(), dst_node_id=NODE, message_type="query")


def test_one_that_has_answered_ends_when_it_is_told_to(question):
    one = site(0)
    one.send([question])
    assert one.receive()[0].content["seen"]["node"] == NODE
    assert list(one.contexts()) == [NODE]
    one.close()
    assert one._process.wait() == 0


def test_one_for_whose_answer_nobody_waits_is_ended_at_once(question, monkeypatch):
    monkeypatch.setattr("ppml.ipc.process.STOP_SECONDS", 60)
    one = site(600)
    one.send([question])
    begun = time.monotonic()
    one.close()
    assert one._process.wait() == -signal.SIGKILL
    assert time.monotonic() - begun < 30


def test_one_that_nobody_listens_to_any_more_ends_without_a_word(question, capfd):
    one = site(0.3)
    one.send([question])
    one._connection.close()
    assert one._process.wait() == 0
    assert capfd.readouterr() == ("", "")
