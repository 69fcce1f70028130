"""A grid over nodes that may disconnect for a while: it repeats each request until the reply or the timeout."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from ppml.federation.messages import STATUS, get_record

POLL_SECONDS = 1.0
RESEND_SECONDS = 90.0
"""Seconds without a reply until a request is sent again: a node that restarts may lose the first one."""


@dataclass
class _PendingRequest:
    """A message, the identifiers of its copies, and the time of the last copy."""

    message: Message
    sent: float = float("-inf")
    sent_ids: set[str] = field(default_factory=set)


class RetryingGrid:
    """The methods of a grid that the server uses, over nodes that may restart.

    ``clients`` has the client of each node, according to its registered key; a reply that names another client is
    ignored, and ``notice`` gets a line about it.
    """

    def __init__(self, grid: Grid, clients: Mapping[int, int], notice: Callable[[str], None]) -> None:
        self._grid, self._clients, self._notice = grid, clients, notice

    def get_node_ids(self) -> list[int]:
        """Return the connected nodes of clients."""
        return [node for node in self._grid.get_node_ids() if node in self._clients]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return the replies within ``timeout`` seconds, at most one for each node."""
        waiting = {one.metadata.dst_node_id: _PendingRequest(one) for one in messages}
        begun, replies = time.monotonic(), list[Message]()
        while waiting and (timeout is None or time.monotonic() - begun < timeout):
            present = set(self.get_node_ids())
            for node, request in waiting.items():
                if node in present and time.monotonic() - request.sent > RESEND_SECONDS:
                    self._send(request)
            for reply in self._replies(waiting):
                if waiting.pop(reply.metadata.src_node_id, None) is not None and self._names_its_client(reply):
                    replies.append(reply)
            if waiting:
                time.sleep(POLL_SECONDS)
        return replies

    def _send(self, request: _PendingRequest) -> None:
        message = request.message
        fresh = Message(
            message.content, dst_node_id=message.metadata.dst_node_id, message_type=message.metadata.message_type
        )
        request.sent_ids.update(self._grid.push_messages([fresh]))
        request.sent = time.monotonic()

    def _replies(self, waiting: Mapping[int, _PendingRequest]) -> Iterable[Message]:
        """Yield replies of nodes; after an error of the grid about a node, send its request again."""
        requests = {identity: one for one in waiting.values() for identity in one.sent_ids}
        for reply in self._grid.pull_messages(requests) if requests else ():
            identity = reply.metadata.reply_to_message_id
            if reply.metadata.src_node_id in self._clients:
                yield reply
            elif identity in requests:
                requests[identity].sent_ids.discard(identity)
                requests[identity].sent = float("-inf")

    def _names_its_client(self, reply: Message) -> bool:
        known = self._clients[reply.metadata.src_node_id]
        if reply.has_error():
            return True
        try:
            client = get_record(reply.content, ConfigRecord, STATUS).get("client")
        except KeyError:
            return True
        if client == known:
            return True
        claimed = f"client {client}" if isinstance(client, int) else "no client"
        self._notice(f"the node of client {known} replies as {claimed}; the reply is ignored")
        return False
