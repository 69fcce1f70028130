"""The server's registry of clients: their nodes, their last applied rounds, and the clients that have finished."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import time
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from ppml.errors import InvalidUpdate
from ppml.federation.client_state import NO_MODEL
from ppml.federation.messages import REQUEST, RoundRequest, pack_fields
from ppml.federation.reply_validation import parse_status, sanitize_for_log
from ppml.federation.server_state import ServerSettings, ServerState

POLL_SECONDS = 0.2


class ClientRegistry:
    """The clients as the server knows them.

    Parameters
    ----------
    settings : ServerSettings
        The server's settings.
    notice : callable
        Called with a line for every irregularity.
    state : ServerState or None
        State from which an interrupted training resumes.

    Attributes
    ----------
    nodes : dict of int to int
        Node of each connected client.
    known : dict of int to int
        Last applied round of each client, as far as the server knows; -1 without a model.
    finished : set of int
        Clients that train no more.
    lost : set of int
        Clients among them whose account is lost.
    """

    def __init__(self, settings: ServerSettings, notice: Callable[[str], None], state: ServerState | None) -> None:
        self._settings = settings
        self._notice = notice
        self.nodes: dict[int, int] = {}
        self.known = dict(state.known) if state else dict.fromkeys(range(settings.clients), NO_MODEL)
        self.finished = set(state.finished) if state else set()
        self.lost: set[int] = set()
        # Nodes that report the number of another client, or a number that does not exist.
        self._ignored: set[int] = set()

    def discover(self, grid: Grid) -> None:
        """Ask new nodes for their client numbers, and wait until all clients are connected or the time is over."""
        deadline, reported = time.monotonic() + self._settings.connect_timeout, set[str]()
        while True:
            present = set(grid.get_node_ids())
            self._remove_disconnected(present)
            new = sorted(present - set(self.nodes.values()) - self._ignored)
            if new:
                requests = [
                    Message(RecordDict({REQUEST: pack_fields(RoundRequest(0, 0))}), node, MessageType.QUERY)
                    for node in new
                ]
                replies = grid.send_and_receive(requests, timeout=self._settings.reply_timeout)
                # The first reply of each node, in the order of the nodes.
                first = {reply.metadata.src_node_id: reply for reply in reversed(list(replies))}
                for node in sorted(first.keys() & set(new)):
                    line = self._register(node, first[node])
                    if line and line not in reported:
                        self._notice(line)
                        reported.add(line)
            if len(self.nodes) == self._settings.clients or time.monotonic() >= deadline:
                return
            time.sleep(POLL_SECONDS)

    def _remove_disconnected(self, present: set[int]) -> None:
        """Remove clients whose node has disconnected, so that another node can take their number."""
        connected = {client: node for client, node in self.nodes.items() if node in present}
        if len(connected) < len(self.nodes):
            self.nodes = connected
            self._ignored.clear()

    def _register(self, node: int, reply: Message) -> str | None:
        """Register a node under the client number in its reply, or return the reason for not doing so."""
        try:
            status = parse_status(reply)
        except InvalidUpdate as error:
            # The next discovery asks the node again.
            return f"node {node} does not report its status: {sanitize_for_log(str(error))}"
        first = self.nodes.get(status.client)
        if status.client not in self.known or first is not None:
            self._ignored.add(node)
            reason = f"of {self._settings.clients}" if first is None else f"which is node {first}"
            return f"node {node} reports that it is client {status.client}, {reason}; it is ignored"
        self.nodes[status.client] = node
        # At most the known round, so that the messages do not depend on the moment of an interruption.
        self.update_known_round(status.client, min(status.applied, self.known[status.client]))
        return None

    def update_known_round(self, client: int, applied: int) -> None:
        """Set the last applied round of a client; a client that falls back has lost its state and its account."""
        if applied < self.known[client] and self._settings.accounted and client not in self.lost:
            self.finished.add(client)
            self.lost.add(client)
            self._notice(f"client {client} has lost the account of its privacy with its state; it trains no more")
        self.known[client] = applied

    def connected(self, clients: Sequence[int], number: int) -> list[int]:
        """Return the connected clients among ``clients``, and report the others in round ``number``."""
        for client in sorted(set(clients) - self.nodes.keys()):
            self._notice(f"round {number}: client {client} is not connected")
        return [client for client in clients if client in self.nodes]

    def replies_by_client(
        self, clients: Sequence[int], replies: Iterable[Message], number: int
    ) -> Iterable[tuple[int, Message]]:
        """Yield each client's first reply, in the order of ``clients``; report other and missing replies."""
        client_of = {self.nodes[client]: client for client in clients}
        first: dict[int, Message] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if node not in client_of:
                self._notice(f"round {number}: node {node} sent a reply without a request; it is ignored")
            elif client_of[node] in first:
                self._notice(f"round {number}: client {client_of[node]} replied twice; the second reply is ignored")
            else:
                first[client_of[node]] = reply
        for client in clients:
            if client in first:
                yield client, first[client]
            else:
                self._notice(f"round {number}: client {client} did not reply")
