"""Where clients live: in this process, or shared out among processes of one thread each, so that all cores are used."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import contextlib
import copy
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Protocol, cast

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from ppml.federation.client import error_reply

FIRST_CLIENT_NODE = 2
STOP, CONTEXTS = "stop", "contexts"
STOP_SECONDS = 5.0
"""How long a process may take to end before it is killed."""

Prefetch = Callable[[Sequence[int]], None]


class ClientWorker(Protocol):
    """Some clients that run one app."""

    def send(self, messages: Sequence[Message]) -> None:
        """Hand over messages, each to the client that it names."""
        ...

    def receive(self) -> list[Message]:
        """Return the answer to each message of the last :meth:`send`, in order."""
        ...

    def close(self) -> None:
        """End what runs for these clients."""
        ...


def client_of(message: Message) -> int:
    """Return the number of the client that a message is for."""
    return message.metadata.dst_node_id - FIRST_CLIENT_NODE


def new_context(client: int, clients: int) -> Context:
    """Return the Flower context of a client that remembers nothing."""
    return Context(
        run_id=1,
        node_id=FIRST_CLIENT_NODE + client,
        node_config={"partition-id": client, "num-partitions": clients},
        state=RecordDict(),
        run_config={},
    )


class InlineWorker:
    """Clients in this process, which answer one after the other.

    Parameters
    ----------
    client_app : ClientApp
        What each runs.
    contexts : mapping of int to Context
        What each remembers, by node.
    expect : callable
        Called with the clients that are asked to train, before the first of them is.
    """

    def __init__(self, client_app: ClientApp, contexts: Mapping[int, Context], prefetch: Prefetch) -> None:
        self._client_app = client_app
        self._contexts = contexts
        self._prefetch = prefetch
        self._answers: list[Message] = []

    def send(self, messages: Sequence[Message]) -> None:
        """Let each client answer."""
        self._prefetch([client_of(one) for one in messages if one.metadata.message_type == MessageType.TRAIN])
        self._answers = [self._answer(message) for message in messages]

    def receive(self) -> list[Message]:
        """Return the answers."""
        return self._answers

    def close(self) -> None:
        """Do nothing."""

    def _answer(self, message: Message) -> Message:
        # A client gets its own copy, as it would from a socket.
        own = copy.copy(message)
        own.content = copy.deepcopy(message.content)
        try:
            return self._client_app(own, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            # What a client raises is an answer, as it is over a network; the server names it.
            return error_reply(message, error)


class ForkedWorker:
    """Clients in a process of their own, which has all that this one had when it was started.

    Parameters
    ----------
    client_app, contexts, expect
        See :class:`InlineWorker`.
    begin : callable
        Called in that process before anything else.
    """

    def __init__(
        self,
        client_app: ClientApp,
        contexts: Mapping[int, Context],
        prefetch: Prefetch,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        # Forked: nothing of what the clients have is copied or written anywhere, their keys included.
        context = multiprocessing.get_context("fork")
        self._line, far_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._line, far_end, client_app, contexts, prefetch, begin), daemon=True
        )
        self._waiting = False
        self._process.start()
        far_end.close()

    def send(self, messages: Sequence[Message]) -> None:
        """Send the messages over, and do not wait."""
        self._give(list(messages))

    def receive(self) -> list[Message]:
        """Wait for the answers.

        Raises
        ------
        ChildProcessError
            The process is gone.
        """
        return cast(list[Message], self._take())

    def contexts(self) -> Mapping[int, Context]:
        """Return copies of the contexts."""
        self._give(CONTEXTS)
        return cast(Mapping[int, Context], self._take())

    def close(self) -> None:
        """End the process."""
        if self._waiting:
            # It is amid an answer for which nobody waits any more.
            self._process.kill()
        else:
            # Told in words: others that were forked later hold this line open, too, so that its end would not be seen.
            with contextlib.suppress(OSError):
                self._line.send_bytes(pickle.dumps(STOP))
        self._line.close()
        self._process.join(timeout=STOP_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _give(self, what: object) -> None:
        self._waiting = True
        try:
            self._line.send_bytes(pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL))
        except OSError:
            raise self._gone() from None

    def _take(self) -> object:
        try:
            answer = self._line.recv_bytes()
        except (EOFError, OSError):
            raise self._gone() from None
        self._waiting = False
        return pickle.loads(answer)

    def _gone(self) -> ChildProcessError:
        self._process.join()
        return ChildProcessError(f"a process that clients live in ended with exit code {self._process.exitcode}")


def _serve(
    other: Connection,
    line: Connection,
    client_app: ClientApp,
    contexts: Mapping[int, Context],
    prefetch: Prefetch,
    begin: Callable[[], None],
) -> None:
    """Answer until it is told to end, or the process that started it is gone."""
    # Ctrl-C is for who started it, and who then ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    other.close()
    begin()
    import torch

    torch.set_num_threads(1)
    here = InlineWorker(client_app, contexts, prefetch)
    while (asked := _heard(line)) != STOP:
        if asked == CONTEXTS:
            answer: object = contexts
        else:
            here.send(cast(list[Message], asked))
            answer = here.receive()
        try:
            line.send_bytes(pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL))
        except OSError:
            # Nobody is left to hear it.
            return


def _heard(line: Connection) -> object:
    """Return what is asked, or to stop where nobody is left to ask."""
    try:
        asked = line.recv_bytes()
    except (EOFError, OSError):
        return STOP
    return pickle.loads(asked)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, also amid a training that nobody waits for now."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
