"""The end of the process of a forked worker."""

from __future__ import annotations

import signal
import time

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ppml.federation.client_workers import FIRST_CLIENT_NODE, ForkedWorker, new_context
from ppml.federation.simulation_grid import InProcessGrid

NODE = FIRST_CLIENT_NODE


def slow_worker(seconds: float) -> ForkedWorker:
    """Return a worker whose client needs ``seconds`` for a reply."""
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        time.sleep(seconds)
        return Message(RecordDict({"seen": ConfigRecord({"node": message.metadata.dst_node_id})}), reply_to=message)

    return ForkedWorker(app, {NODE: new_context(0, 1)}, lambda clients: None)


@pytest.fixture
def question() -> Message:
    """Return a message to the client."""
    # The grid sets the sender of Flower's messages.
    InProcessGrid(ClientApp(), 1)
    return Message(RecordDict(), dst_node_id=NODE, message_type="query")


def test_idle_worker_ends_at_the_stop_message(question):
    worker = slow_worker(0)
    worker.send([question])
    assert worker.receive()[0].content["seen"]["node"] == NODE
    assert list(worker.contexts()) == [NODE]
    worker.close()
    assert worker._process.wait() == 0


def test_busy_worker_is_killed_at_once(question, monkeypatch):
    monkeypatch.setattr("ppml.ipc.process.STOP_SECONDS", 60)
    worker = slow_worker(600)
    worker.send([question])
    begun = time.monotonic()
    worker.close()
    assert worker._process.wait() == -signal.SIGKILL
    assert time.monotonic() - begun < 30


def test_worker_without_a_reader_ends_silently(question, capfd):
    worker = slow_worker(0.3)
    worker.send([question])
    worker._connection.close()
    assert worker._process.wait() == 0
    assert capfd.readouterr() == ("", "")
