"""Flower's grid in one process: the same server and client apps, without processes, sockets or Ray."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
import copy
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from ppml.federation.messages import payload_bytes

SERVER_NODE = 1
FIRST_CLIENT_NODE = 2

Tap = Callable[[str, Message], None]
"""Sees every message, with the direction ``"up"`` (to the server) or ``"down"``."""


class InProcessGrid(Grid):
    """Calls a ClientApp directly, client after client in the order of their numbers.

    Parameters
    ----------
    client_app : ClientApp
        What every client runs.
    clients : int
        How many there are.
    taps : sequence of callables
        Each sees every message on its way.
    """

    def __init__(self, client_app: ClientApp, clients: int, taps: Sequence[Tap] = ()) -> None:
        # Flower's messages ask this class who sends them; it is internal, which is one reason why Flower is pinned.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SERVER_NODE
        self._client_app = client_app
        self._taps = taps
        self.contexts = {
            FIRST_CLIENT_NODE + client: Context(
                run_id=1,
                node_id=FIRST_CLIENT_NODE + client,
                node_config={"partition-id": client, "num-partitions": clients},
                state=RecordDict(),
                run_config={},
            )
            for client in range(clients)
        }

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients' node numbers."""
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver each message and return the replies."""
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> Message:
        self._tell("down", message)
        # A client gets its own copy, as it would from a socket.
        own = copy.copy(message)
        own.content = copy.deepcopy(message.content)
        context = self.contexts[message.metadata.dst_node_id]
        try:
            reply = self._client_app(own, context)
        except Exception as error:
            error.add_note(f"raised at client {context.node_config['partition-id']}")
            raise
        self._tell("up", reply)
        return reply

    def _tell(self, direction: str, message: Message) -> None:
        for tap in self._taps:
            tap(direction, message)

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Run:
        """The run; not used in process."""
        raise NotImplementedError("the in-process grid has no run information")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to a client."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse: replies are immediate here."""
        raise NotImplementedError("use send_and_receive: the in-process grid answers at once")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse: replies are immediate here."""
        raise NotImplementedError("use send_and_receive: the in-process grid answers at once")


class Meter:
    """A tap that counts payload bytes in both directions.

    Parameters
    ----------
    up, down : int
        What to count on from.
    """

    def __init__(self, up: int = 0, down: int = 0) -> None:
        self.sent = {"up": up, "down": down}

    def __call__(self, direction: str, message: Message) -> None:
        """Count one message."""
        self.sent[direction] += payload_bytes(message.content)
