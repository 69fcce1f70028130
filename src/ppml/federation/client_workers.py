"""Clients in this process, or in forked processes of one thread each, so that all cores are used."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import copy
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Protocol, cast

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from ppml.federation.client import error_reply
from ppml.ipc.parent_watch import exit_with_parent
from ppml.ipc.process import ChildProcess, RpcConnection, serve_requests

FIRST_CLIENT_NODE = 2
MESSAGES, CONTEXTS = b"m", b"c"
"""Request codes of a worker process: messages to its clients, copies of their contexts."""

NAME = "process of some clients"

Prefetch = Callable[[Sequence[int]], None]


class ClientWorker(Protocol):
    """Some clients that run one app."""

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages, each to its client."""
        ...

    def receive(self) -> list[Message]:
        """Return the reply to each message of the last :meth:`send`, in order."""
        ...

    def close(self) -> None:
        """Stop the processes of these clients."""
        ...


def recipient(message: Message) -> int:
    """Return the number of the client that receives a message."""
    return message.metadata.dst_node_id - FIRST_CLIENT_NODE


def new_context(client: int, clients: int) -> Context:
    """Return a Flower context without state for a client."""
    return Context(
        run_id=1,
        node_id=FIRST_CLIENT_NODE + client,
        node_config={"partition-id": client, "num-partitions": clients},
        state=RecordDict(),
        run_config={},
    )


class InlineWorker:
    """Clients in this process, which reply one after the other.

    Parameters
    ----------
    client_app : ClientApp
        App of each client.
    contexts : mapping of int to Context
        State of each client, by node.
    prefetch : callable
        Called with the clients that are to train, before the first of them trains.
    """

    def __init__(self, client_app: ClientApp, contexts: Mapping[int, Context], prefetch: Prefetch) -> None:
        self._client_app = client_app
        self._contexts = contexts
        self._prefetch = prefetch
        self._replies: list[Message] = []

    def send(self, messages: Sequence[Message]) -> None:
        """Let each client reply."""
        self._prefetch([recipient(one) for one in messages if one.metadata.message_type == MessageType.TRAIN])
        self._replies = [self._reply(message) for message in messages]

    def receive(self) -> list[Message]:
        """Return the replies."""
        return self._replies

    def close(self) -> None:
        """Do nothing."""

    def answer(self, code: bytes, content: bytes) -> bytes:
        """Return the pickled replies to pickled messages, or the contexts, to the process that forked this one."""
        result: object = self._contexts
        if code == MESSAGES:
            self.send(pickle.loads(content))
            result = self._replies
        return pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)

    def _reply(self, message: Message) -> Message:
        # A client gets a copy, as it would from a socket.
        received = copy.copy(message)
        received.content = copy.deepcopy(message.content)
        try:
            return self._client_app(received, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            # As over a network, an exception of a client is a reply; the server names it.
            return error_reply(message, error)


class ForkedWorker:
    """Clients in a child process, which has a copy of all objects of this process at its start.

    Parameters
    ----------
    client_app, contexts, prefetch
        See :class:`InlineWorker`.
    begin : callable
        Called first in the child process.
    """

    def __init__(
        self,
        client_app: ClientApp,
        contexts: Mapping[int, Context],
        prefetch: Prefetch,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        parent = os.getpid()

        def run(connections: list[Connection]) -> None:
            # Also in the middle of a training, whose reply would be lost.
            exit_with_parent(parent)
            begin()
            import torch

            torch.set_num_threads(1)
            worker = InlineWorker(client_app, contexts, prefetch)
            serve_requests(NAME, worker, [frozenset({MESSAGES, CONTEXTS})], connections, max_bytes=None)

        self._process = ChildProcess(NAME, run)
        self._connection = RpcConnection(NAME, self._process.connections[0], None, self._process.wait)
        self._busy = False

    def send(self, messages: Sequence[Message]) -> None:
        """Send the messages without waiting."""
        self._busy = True
        self._connection.send(MESSAGES, pickle.dumps(list(messages), protocol=pickle.HIGHEST_PROTOCOL))

    def receive(self) -> list[Message]:
        """Wait for the replies.

        Raises
        ------
        ChildProcessError
            The process has ended.
        """
        reply = self._connection.receive()
        self._busy = False
        return cast(list[Message], pickle.loads(reply))

    def contexts(self) -> Mapping[int, Context]:
        """Return copies of the contexts."""
        return cast(Mapping[int, Context], pickle.loads(self._connection.ask(CONTEXTS)))

    def close(self) -> None:
        """Stop the process; kill it if it still computes replies, which would not be read."""
        self._process.stop(kill=self._busy)
