"""Flower's grid in one process: the same server and client apps, without processes, sockets or Ray."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from ppml.federation.client import no_prefetch
from ppml.federation.client_workers import FIRST_CLIENT_NODE, ForkedWorker, Prefetch, InlineWorker, ClientWorker, client_of, new_context
from ppml.federation.messages import payload_bytes, unpack_request
from ppml.ipc.isolation import IsolationHooks

SERVER_NODE = 1

MessageObserver = Callable[[str, Message], None]
"""Sees every message, with the direction ``"up"`` (to the server) or ``"down"``."""

DropsReply = Callable[[int, int], bool]
"""Tells by round and client whether a client fails in that round: it does its part, and its answer never comes."""


def no_dropouts(number: int, client: int) -> bool:
    """Return False: every client answers."""
    return False


class Contexts:
    """What the clients remember, by node, wherever they live: what sees this sees no client, and so no key.

    Parameters
    ----------
    contexts : dict of int to Context
        Those that the clients begin with, and, where they live in this process, keep.
    """

    def __init__(self, contexts: dict[int, Context]) -> None:
        self._contexts = contexts
        self.elsewhere: list[ForkedWorker] = []

    def __call__(self) -> dict[int, Context]:
        """Return the contexts, or, where the clients live in other processes, copies of them."""
        found = dict(self._contexts)
        for site in self.elsewhere:
            found.update(site.contexts())
        return found


class InProcessGrid(Grid):
    """Calls a ClientApp directly: in this process, client after client, or in several, which share the clients.

    Parameters
    ----------
    client_app : ClientApp
        What every client runs.
    clients : int
        How many there are.
    taps : sequence of callables
        Each sees every message on its way.
    fails : callable
        Says which answers get lost.
    workers : int
        In how many processes the clients live; 1: in this one, if they may. The bits do not depend on it.
    expect : callable
        Called, where they live, with the clients that are asked to train, before the first of them is.
    apart : Apart or None
        They live in other processes in any case, and this is what is closed then; None: they may live in this one.
    """

    def __init__(
        self,
        client_app: ClientApp,
        clients: int,
        observers: Sequence[MessageObserver] = (),
        drops_reply: DropsReply = no_dropouts,
        workers: int = 1,
        prefetch: Prefetch = no_prefetch,
        apart: IsolationHooks | None = None,
    ) -> None:
        # Flower's messages ask this class who sends them; it is internal, which is one reason why Flower is pinned.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SERVER_NODE
        self._client_app = client_app
        self._observers = observers
        self._drops_reply = drops_reply
        self._workers = min(workers, clients)
        self._prefetch = prefetch
        self._apart = apart
        self._contexts = {FIRST_CLIENT_NODE + client: new_context(client, clients) for client in range(clients)}
        self._sites: list[ClientWorker] = []
        self.contexts = Contexts(self._contexts)

    def close(self) -> None:
        """End the processes that clients live in, if there are any."""
        for site in self._sites:
            site.close()
        self._sites = []

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients' node numbers."""
        return list(self._contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver each message and return the replies that come, in the order of the messages."""
        if not self._sites:
            self._sites = self._open()
        asked = list(messages)
        for message in asked:
            self._tell("down", message)
        shares: list[list[int]] = [[] for _ in self._sites]
        for place, message in enumerate(asked):
            shares[client_of(message) % self._workers].append(place)
        # All are at work before the first is waited for.
        for site, share in zip(self._sites, shares, strict=True):
            site.send([asked[place] for place in share])
        replies: dict[int, Message] = {}
        for site, share in zip(self._sites, shares, strict=True):
            replies.update(zip(share, site.receive(), strict=True))
        return [replies[place] for place, message in enumerate(asked) if self._arrives(message, replies[place])]

    def _open(self) -> list[ClientWorker]:
        shares: list[dict[int, Context]] = [{} for _ in range(self._workers)]
        for place, (node, context) in enumerate(self._contexts.items()):
            shares[place % self._workers][node] = context
        if self._workers == 1 and self._apart is None:
            return [InlineWorker(self._client_app, shares[0], self._prefetch)]
        apart = self._apart or IsolationHooks()
        self.contexts.elsewhere = [
            ForkedWorker(self._client_app, share, self._prefetch, apart.at_clients) for share in shares
        ]
        apart.at_server()
        return list(self.contexts.elsewhere)

    def _arrives(self, message: Message, reply: Message) -> bool:
        """Return whether a reply reaches the server, which sees it then."""
        if reply.has_error():
            return True
        if message.metadata.message_type == MessageType.TRAIN and self._drops_reply(
            unpack_request(message.content).number, client_of(message)
        ):
            return False
        self._tell("up", reply)
        return True

    def _tell(self, direction: str, message: Message) -> None:
        for tap in self._observers:
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


class TrafficCounter:
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
