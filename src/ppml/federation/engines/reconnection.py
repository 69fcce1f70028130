"""The server's view of nodes that may be away for a while: each is asked until it answers, or time is up."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from ppml.federation.messages import STATUS, get_record

POLL_SECONDS = 1.0
ASK_AGAIN_SECONDS = 90.0
"""After so many seconds without an answer a node is asked again: what it was asked first may be lost with it."""


@dataclass
class _Asked:
    """A message, the identities that it was sent under, and when it was sent last."""

    message: Message
    sent: float = float("-inf")
    known_as: set[str] = field(default_factory=set)


class PatientGrid:
    """What the server uses of a grid, over nodes that may be restarted.

    Parameters
    ----------
    grid : Grid
        Flower's.
    clients : mapping of int to int
        Which client each node is, by the key that it was registered with; an answer that names another is left out.
    notice : callable
        Gets a line for each answer that is left out.
    """

    def __init__(self, grid: Grid, clients: Mapping[int, int], notice: Callable[[str], None]) -> None:
        self._grid, self._clients, self._notice = grid, clients, notice

    def get_node_ids(self) -> list[int]:
        """Return the nodes of clients that are connected now."""
        return [node for node in self._grid.get_node_ids() if node in self._clients]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return the answers that come within ``timeout`` seconds, at most one for each node."""
        waiting = {one.metadata.dst_node_id: _Asked(one) for one in messages}
        begun, answers = time.monotonic(), list[Message]()
        while waiting and (timeout is None or time.monotonic() - begun < timeout):
            present = set(self.get_node_ids())
            for node, asked in waiting.items():
                if node in present and time.monotonic() - asked.sent > ASK_AGAIN_SECONDS:
                    self._send(asked)
            for reply in self._replies(waiting):
                if waiting.pop(reply.metadata.src_node_id, None) is not None and self._is_its_own(reply):
                    answers.append(reply)
            if waiting:
                time.sleep(POLL_SECONDS)
        return answers

    def _send(self, asked: _Asked) -> None:
        one = asked.message
        fresh = Message(one.content, dst_node_id=one.metadata.dst_node_id, message_type=one.metadata.message_type)
        asked.known_as.update(self._grid.push_messages([fresh]))
        asked.sent = time.monotonic()

    def _replies(self, waiting: Mapping[int, _Asked]) -> Iterable[Message]:
        """Yield what nodes say; where the grid says that a node is gone, it is asked again once it is back."""
        of = {identity: asked for asked in waiting.values() for identity in asked.known_as}
        for reply in self._grid.pull_messages(of) if of else ():
            identity = reply.metadata.reply_to_message_id
            if reply.metadata.src_node_id in self._clients:
                yield reply
            elif identity in of:
                of[identity].known_as.discard(identity)
                of[identity].sent = float("-inf")

    def _is_its_own(self, reply: Message) -> bool:
        node = reply.metadata.src_node_id
        if reply.has_error() or STATUS not in reply.content:
            return True
        try:
            said = get_record(reply.content, ConfigRecord, STATUS).get("client")
        except KeyError:
            return True
        if said == self._clients[node]:
            return True
        whom = f"client {said}" if isinstance(said, int) else "something that is no client"
        self._notice(f"the node of client {self._clients[node]} says that it is {whom}; it is left out")
        return False
