"""Flower's grid in one process: the same server and client apps without sockets or Ray."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from ppml.federation.client import no_prefetch
from ppml.federation.client_workers import (
    FIRST_CLIENT_NODE,
    ClientWorker,
    ForkedWorker,
    InlineWorker,
    Prefetch,
    new_context,
    recipient,
)
from ppml.federation.messages import payload_bytes, unpack_request
from ppml.ipc.isolation import IsolationHooks

SERVER_NODE = 1

MessageObserver = Callable[[str, Message], None]
"""Gets every message, and its direction: ``"up"`` (to the server) or ``"down"``."""

DropsReply = Callable[[int, int], bool]
"""Returns, for a round and a client, whether the reply is dropped: the client trains, the server gets nothing."""


def no_dropouts(number: int, client: int) -> bool:
    """Return False: the server gets every reply."""
    return False


class ClientContexts:
    """The contexts of all clients, by node. It has no reference to the clients, and so none to their keys.

    Parameters
    ----------
    contexts : dict of int to Context
        Initial contexts; clients in this process change them.
    """

    def __init__(self, contexts: dict[int, Context]) -> None:
        self._contexts = contexts
        self.workers: list[ForkedWorker] = []

    def __call__(self) -> dict[int, Context]:
        """Return the contexts; those of clients in other processes are copies."""
        contexts = dict(self._contexts)
        for worker in self.workers:
            contexts.update(worker.contexts())
        return contexts


class InProcessGrid(Grid):
    """A grid that calls a ClientApp directly, in this process or in forked workers.

    Parameters
    ----------
    client_app : ClientApp
        App of every client.
    clients : int
        Number of clients.
    observers : sequence of callables
        Observers of all messages.
    drops_reply : callable
        Decides on simulated dropouts.
    workers : int
        Number of processes for the clients; 1: this process, unless ``isolation`` is set. The results have the same
        bits.
    prefetch : callable
        Called in the clients' process with the clients of a round before the first of them trains.
    isolation : IsolationHooks or None
        Hooks for clients that must have a process of their own; None: clients may run in this process.
    """

    def __init__(
        self,
        client_app: ClientApp,
        clients: int,
        observers: Sequence[MessageObserver] = (),
        drops_reply: DropsReply = no_dropouts,
        workers: int = 1,
        prefetch: Prefetch = no_prefetch,
        isolation: IsolationHooks | None = None,
    ) -> None:
        # Flower's messages read their sender from this class. It is internal, one reason to pin Flower's version.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SERVER_NODE
        self._client_app = client_app
        self._observers = observers
        self._drops_reply = drops_reply
        self._worker_count = min(workers, clients)
        self._prefetch = prefetch
        self._isolation = isolation
        self._contexts = {FIRST_CLIENT_NODE + client: new_context(client, clients) for client in range(clients)}
        self._workers: list[ClientWorker] = []
        self.contexts = ClientContexts(self._contexts)

    def close(self) -> None:
        """Stop the workers' processes, if any."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients' node numbers."""
        return list(self._contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver each message, and return the replies in the order of the messages."""
        if not self._workers:
            self._workers = self._start_workers()
        sent = list(messages)
        for message in sent:
            self._notify("down", message)
        chunks: list[list[int]] = [[] for _ in self._workers]
        for index, message in enumerate(sent):
            chunks[recipient(message) % self._worker_count].append(index)
        # All workers compute at the same time.
        for worker, chunk in zip(self._workers, chunks, strict=True):
            worker.send([sent[index] for index in chunk])
        replies: dict[int, Message] = {}
        for worker, chunk in zip(self._workers, chunks, strict=True):
            replies.update(zip(chunk, worker.receive(), strict=True))
        return [replies[index] for index, message in enumerate(sent) if self._deliver(message, replies[index])]

    def _start_workers(self) -> list[ClientWorker]:
        chunks: list[dict[int, Context]] = [{} for _ in range(self._worker_count)]
        for index, (node, context) in enumerate(self._contexts.items()):
            chunks[index % self._worker_count][node] = context
        if self._worker_count == 1 and self._isolation is None:
            return [InlineWorker(self._client_app, chunks[0], self._prefetch)]
        isolation = self._isolation or IsolationHooks()
        self.contexts.workers = [
            ForkedWorker(self._client_app, chunk, self._prefetch, isolation.at_clients) for chunk in chunks
        ]
        isolation.at_server()
        return list(self.contexts.workers)

    def _deliver(self, message: Message, reply: Message) -> bool:
        """Return whether the server gets a reply; observers see it then."""
        if reply.has_error():
            return True
        if message.metadata.message_type == MessageType.TRAIN and self._drops_reply(
            unpack_request(message.content).number, recipient(message)
        ):
            return False
        self._notify("up", reply)
        return True

    def _notify(self, direction: str, message: Message) -> None:
        for observer in self._observers:
            observer(direction, message)

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
        """Raise an error: replies are immediate in this grid."""
        raise NotImplementedError("the in-process grid replies at once: use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Raise an error: replies are immediate in this grid."""
        raise NotImplementedError("the in-process grid replies at once: use send_and_receive")


class TrafficCounter:
    """An observer that counts payload bytes in both directions.

    Parameters
    ----------
    up, down : int
        Initial counts.
    """

    def __init__(self, up: int = 0, down: int = 0) -> None:
        self.sent = {"up": up, "down": down}

    def __call__(self, direction: str, message: Message) -> None:
        """Count one message."""
        self.sent[direction] += payload_bytes(message.content)
