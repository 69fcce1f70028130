"""Every message of a node gets a reply, also if its task fails: without it the node requests no further message."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import Status, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from ppml.federation.engines.node_state import AnsweringNodeState

RUN, NODE = 7, 11


@pytest.fixture
def state() -> AnsweringNodeState:
    return new_state(AnsweringNodeState)


def new_state(kind: type[InMemoryNodeState]) -> InMemoryNodeState:
    state = kind(ObjectStoreFactory().store())
    state.set_node_id(NODE)
    return state


def message(number: int = 0) -> Message:
    metadata = Metadata(RUN, "", 1, NODE, "", "", time.time(), 3600.0, "train")
    asked = make_message(metadata, RecordDict({"x": ConfigRecord({"number": number})}))
    asked.metadata.__dict__["_message_id"] = asked.object_id
    return asked


def task(state: InMemoryNodeState) -> int:
    number = state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN, fab_hash="")
    assert number is not None
    return number


def answers(state: InMemoryNodeState) -> list[str]:
    return [reply.metadata.reply_to_message_id for reply in state.get_messages_legacy(is_reply=True)]


def fail(state: InMemoryNodeState, number: int) -> None:
    assert state.finish_task(number, SubStatus.FAILED, "no reason")


def test_task_waits_for_its_message(state):
    number = task(state)
    assert state.claim_task(number) is None
    state.store_message(message())
    assert state.claim_task(number)
    # Flower's own state starts the task, which then finds no message.
    plain = new_state(InMemoryNodeState)
    assert plain.claim_task(task(plain))


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_message_of_a_failed_task_gets_an_error(state, begun, asked):
    number, request = task(state), message()
    state.store_message(request)
    state.claim_task(number)
    if begun:
        assert state.activate_task(number)
    if asked:
        state.get_messages_legacy(run_ids=[RUN], is_reply=False, limit=1)
    assert answers(state) == []
    fail(state, number)
    assert answers(state) == [request.metadata.message_id]
    assert state.get_messages_legacy(is_reply=False) == []


def test_message_of_an_expired_task_gets_an_error(state):
    number, request = task(state), message()
    state.store_message(request)
    state.claim_task(number)
    state.activate_task(number)
    state.task_token_store[number].active_until -= timedelta(hours=1)
    assert answers(state) == [request.metadata.message_id]


def test_task_that_never_started_becomes_pending_again(state):
    number = task(state)
    state.store_message(message())
    state.claim_task(number)
    state.task_token_store[number].active_until -= timedelta(hours=1)
    assert answers(state) == []
    assert [one.status.status for one in state.get_tasks()] == [Status.PENDING]
    assert state.claim_task(number)


def test_late_failure_keeps_the_next_message(state):
    first, last = message(0), message(1)
    number = task(state)
    state.store_message(first)
    state.claim_task(number)
    state.activate_task(number)
    state.get_messages_legacy(run_ids=[RUN], is_reply=False, limit=1)
    # The reply is sent, and the next message arrives before the task reports its end.
    state.delete_messages(message_ids=[first.metadata.message_id])
    following = task(state)
    state.store_message(last)
    fail(state, number)
    assert answers(state) == []
    assert state.claim_task(following)


def test_stored_reply_is_not_repeated(state):
    number, request = task(state), message()
    state.store_message(request)
    state.claim_task(number)
    state.activate_task(number)
    (had,) = state.get_messages_legacy(run_ids=[RUN], is_reply=False, limit=1)
    reply = Message(RecordDict(), reply_to=had)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    state.store_message(reply)
    fail(state, number)
    assert answers(state) == [request.metadata.message_id]
