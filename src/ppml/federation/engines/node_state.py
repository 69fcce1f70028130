"""A node state in which every message gets a reply.

Flower's node waits for the reply to one message before it requests the next. Two orders of events block it forever: a
task that requests its message before the node has stored it, and a task that fails before it has its message or while
it sends its reply. The first order needs a task that starts at once, as a forked one does.
"""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip

from flwr.app import Error
from flwr.common.constant import Status, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR, InMemoryNodeState, MessageEntry


class AnsweringNodeState(InMemoryNodeState):
    """Flower's node state, with tasks that wait for their message, and no message that remains after its task."""

    def claim_task(self, task_id: int) -> str | None:
        """Return the token of a pending task; None if it is not pending, or its message is not stored yet."""
        runs = {task.run_id for task in self.get_tasks(task_ids=[task_id]) if task.type == TaskType.CLIENT_APP}
        return None if runs and not self._has_request(runs) else super().claim_task(task_id)

    def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
        """Finish a task; the message of a failed task gets an error as its reply."""
        finished = super().finish_task(task_id, sub_status, details)
        if finished and sub_status == SubStatus.FAILED:
            for task in self.get_tasks(task_ids=[task_id]):
                self._store_error_replies({task.run_id}, CLIENT_APP_CRASHED_ERROR)
        return finished

    def _has_request(self, run_ids: set[int]) -> bool:
        with self.lock_msg_store:
            return any(_is_request(entry, run_ids) and not entry.is_retrieved for entry in self.msg_store.values())

    def _store_error_replies(self, run_ids: set[int], error: Error) -> None:
        # This thread may hold the lock of the tasks, so read them without it, from a copy.
        unfinished = {task.run_id for task in list(self.task_store.values()) if task.status.status != Status.FINISHED}
        with self.lock_msg_store:
            for entry in self.msg_store.values():
                # Flower replies only to messages that a task has retrieved.
                if _is_request(entry, run_ids - unfinished):
                    entry.is_retrieved = True
            super()._store_error_replies(run_ids - unfinished, error)


def _is_request(entry: MessageEntry, run_ids: set[int]) -> bool:
    metadata = entry.message.metadata
    return metadata.run_id in run_ids and not metadata.reply_to_message_id
