"""The server: sends sums, adds what comes back. It sees sealed contributions and never opens one."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.interfaces import UPLOAD, Aggregator, ProtectedUpdate, SecretKeyExposed
from ppml.errors import InvalidUpdate
from ppml.federation.client_state import NO_MODEL
from ppml.federation.messages import (
    ACCOUNT,
    PLACEHOLDER,
    INITIAL,
    ORDER,
    STEP,
    SUMS,
    UPDATE,
    RoundRequest,
    pack_fields,
    pack_step,
    pack_sums,
    pack_vector,
    get_record,
    unpack_step,
    unpack_update,
)
from ppml.federation.reply_validation import (
    UNREADABLE,
    Account,
    parse_account,
    validate_reply,
    parse_metrics,
    sanitize_for_log,
    reading,
    parse_status,
)
from ppml.federation.server_state import RoundFailed, ServerState
from ppml.federation.sum_mechanism import SumMechanism, identity

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class ServerSettings:
    """What the server knows of the training.

    Parameters
    ----------
    rounds : int
        How many there are.
    clients : int
        How many clients there are.
    initial : NDArray[np.float32]
        The weights that the training begins with: public.
    length : int
        How many values a contribution has.
    participants : callable
        Returns the clients that are asked in a round, by its number.
    least : int
        How many must answer, or the round is given up.
    accounted : bool
        Whether clients keep accounts of their privacy.
    timeout : float or None
        Seconds that a round waits for answers; None: as long as it takes.
    patience : float
        Seconds that the server waits for all clients to connect.
    """

    rounds: int
    clients: int
    initial: NDArray[np.float32]
    length: int
    sample_clients: Callable[[int], Sequence[int]]
    least: int = 1
    accounted: bool = False
    timeout: float | None = None
    patience: float = 0.0


@dataclass(frozen=True)
class RoundResult:
    """What a round came to.

    Parameters
    ----------
    standing : Standing
        Where the server is.
    clients : int
        How many contributions the sum has.
    events : tuple of MechanismEvent
        What the server added to the sum.
    loss, accuracy : float
        Of the global model, as a client measured them.
    """

    server_state: ServerState
    clients: int
    events: tuple[MechanismEvent, ...]
    loss: float
    accuracy: float


class FederatedServer:
    """Runs the rounds over a grid.

    Parameters
    ----------
    plan : ServerSettings
        What there is to do.
    aggregator : Aggregator
        Adds sealed contributions; never holds a secret key.
    after_round : callable
        Gets what each round came to.
    notice : callable
        Gets a line for everything that does not go as it should.
    release : Release
        What is done to a sum before it is sent.
    standing : Standing or None
        Where an interrupted training goes on; its clients have applied all sums until then.
    """

    def __init__(
        self,
        plan: ServerSettings,
        aggregator: Aggregator,
        after_round: Callable[[RoundResult], None],
        notice: Callable[[str], None],
        release: SumMechanism = identity,
        server_state: ServerState | None = None,
    ) -> None:
        self._plan = plan
        self._aggregator = aggregator
        self._after_round = after_round
        self._notice = notice
        self._release = release
        self._done = server_state.number if server_state else 0
        self._known = dict(server_state.known) if server_state else dict.fromkeys(range(plan.clients), NO_MODEL)
        # Clients that resume have applied these sums and open nothing. What they get in their place is of the same
        # size, so that the cost is that of the training, whether it was interrupted or not.
        sizes = server_state.sum_bytes if server_state else {}
        self._sums = {number: ProtectedUpdate(PLACEHOLDER, 0, bytes(size)) for number, size in sizes.items()}
        self._finished = set(server_state.finished) if server_state else set()
        self._accepted = dict(server_state.accepted) if server_state else {}
        self._lost: set[int] = set()
        self._packed: tuple[range, ArrayRecord] | None = None
        self._nodes: dict[int, int] = {}
        # Nodes that say that they are who they cannot be.
        self._ignored: set[int] = set()

    def run(self, grid: Grid) -> None:
        """Run the rounds that are left; end early where no client has any privacy budget left.

        Raises
        ------
        RoundFailed
            Too few clients answered.
        """
        for number in range(self._done + 1, self._plan.rounds + 1):
            self._call_the_roll(grid)
            asked = [client for client in self._plan.sample_clients(number) if client not in self._finished]
            answers = self._ask(grid, self._steps(grid, self._aggregator.setup_steps, asked, number), number)
            if len(self._finished) == self._plan.clients and not answers:
                self._notice(f"round {number}: no client trains any more; the training ends after round {number - 1}")
                return
            if not answers and set(asked) <= self._finished:
                self._notice(f"round {number}: none of the clients that were asked trains any more; it is left out")
                continue
            left = self._plan.clients - len(self._finished)
            if self._finished and left < self._plan.least:
                self._notice(
                    f"round {number}: {left} clients train on, and the sum of a round is of at least "
                    f"{self._plan.least}; the training ends after round {number - 1}"
                )
                return
            self._close(asked, answers, number)
            self._steps(grid, self._aggregator.unmask_steps, sorted(answers), number)
            total, events = self._release(self._sum(answers, number), number)
            self._sums[number] = total
            loss, accuracy = self._measure(grid, sorted(answers), number)
            sizes = {past: len(one.payload) for past, one in self._sums.items()}
            self._accepted.update(dict.fromkeys(answers, number))
            server_state = ServerState(number, dict(self._known), sizes, tuple(sorted(self._finished)), dict(self._accepted))
            self._after_round(RoundResult(server_state, len(answers), events, loss, accuracy))

    def accounts(self, grid: Grid) -> dict[int, Account]:
        """Return the account of each client that gives one, after the last round.

        A client that gives none, or another model than most do, is named and left out: the training stands, and no
        epsilon may be stated for that client.

        Raises
        ------
        RoundFailed
            No model is that of more than half of the clients that give an account.
        """
        last = max(self._sums, default=0)
        present = [client for client in sorted(self._nodes) if client not in self._lost]
        orders = [self._order(client, f"{MessageType.QUERY}.{ACCOUNT}", last, last) for client in present]
        found: dict[int, Account] = {}
        replies = list(grid.send_and_receive(orders, timeout=self._plan.timeout))
        for client, reply in self._by_client(present, replies, last):
            try:
                found[client] = parse_account(reply, client, last)
            except InvalidUpdate as fault:
                self._notice(f"client {client}: {sanitize_for_log(str(fault))}")
        counted = Counter(account.model for account in found.values()).most_common(1)
        if not counted:
            raise RoundFailed("no client gives an account of its training, or says which model it has come to")
        model, agree = counted[0]
        if 2 * agree <= len(found):
            raise RoundFailed(f"the clients have come to different models, at most {agree} of {len(found)} to one")
        for client in [client for client, account in found.items() if account.model != model]:
            self._notice(f"client {client}: it has come to another model than {agree} of {len(found)} clients")
            del found[client]
        for client in sorted(set(range(self._plan.clients)) - found.keys()):
            unstated = "; no epsilon may be stated for it" if self._plan.accounted else ""
            self._notice(f"client {client} gives no account of its training{unstated}")
        return found

    def _call_the_roll(self, grid: Grid) -> None:
        """Learn which client each node is; wait for those that are not there yet."""
        deadline, named = time.monotonic() + self._plan.patience, set[str]()
        while True:
            present = set(grid.get_node_ids())
            self._forget_those_who_left(present)
            new = sorted(present - set(self._nodes.values()) - self._ignored)
            if new:
                calls = [
                    Message(RecordDict({ORDER: pack_fields(RoundRequest(0, 0))}), node, MessageType.QUERY) for node in new
                ]
                replies = grid.send_and_receive(calls, timeout=self._plan.timeout)
                # The first answer of each node that was called, in the order of the nodes.
                first = {reply.metadata.src_node_id: reply for reply in reversed(list(replies))}
                for node in sorted(first.keys() & set(new)):
                    line = self._admit(node, first[node])
                    if line and line not in named:
                        self._notice(line)
                        named.add(line)
            if len(self._nodes) == self._plan.clients or time.monotonic() >= deadline:
                return
            time.sleep(POLL_SECONDS)

    def _forget_those_who_left(self, present: set[int]) -> None:
        """Let another node be a client whose own is gone."""
        gone = {client for client, node in self._nodes.items() if node not in present}
        if gone:
            self._nodes = {client: node for client, node in self._nodes.items() if client not in gone}
            self._ignored.clear()

    def _admit(self, node: int, reply: Message) -> str | None:
        """Take in the node that a reply to the roll is of, or return a line that says why not."""
        try:
            status = parse_status(reply)
        except InvalidUpdate as fault:
            # It is called again.
            return f"node {node} does not answer the roll: {sanitize_for_log(str(fault))}"
        first = self._nodes.get(status.client)
        if status.client not in self._known or first is not None:
            self._ignored.add(node)
            whose = f", of {self._plan.clients}" if first is None else f", as node {first} does"
            return f"node {node} says that it is client {status.client}{whose}; it is left out"
        self._nodes[status.client] = node
        # Not more than it is known to have: what it is sent does not depend on who was interrupted when.
        self._remember(status.client, min(status.applied, self._known[status.client]))
        return None

    def _remember(self, client: int, applied: int) -> None:
        """Remember what a client has; one that has less than it had has lost its account, too, if it keeps one."""
        if applied < self._known[client] and self._plan.accounted and client not in self._lost:
            self._finished.add(client)
            self._lost.add(client)
            self._notice(f"client {client} has lost the account of its privacy with its state; it trains no more")
        self._known[client] = applied

    def _steps(self, grid: Grid, steps: Sequence[str], asked: Sequence[int], number: int) -> Sequence[int]:
        """Take the clients that are asked through steps of the aggregation; return those who have taken all."""
        for step in steps:
            asked = self._step(grid, step, self._connected(asked, number), number)
        return asked

    def _connected(self, asked: Sequence[int], number: int) -> list[int]:
        """Return those of the clients that are asked who can be."""
        for client in sorted(set(asked) - self._nodes.keys()):
            self._notice(f"round {number}: client {client} is not connected")
        return [client for client in asked if client in self._nodes]

    def _step(self, grid: Grid, step: str, asked: Sequence[int], number: int) -> list[int]:
        told, order = self._told(step, asked, number), pack_fields(RoundRequest(number, 0))
        addressed = [client for client in asked if client in told]
        # A client that is told nothing has nothing to do, and has taken the step.
        taken = set(asked) - set(addressed)
        messages = [
            Message(
                RecordDict({ORDER: order, STEP: pack_step(step, told[client])}),
                dst_node_id=self._nodes[client],
                message_type=f"{MessageType.QUERY}.{STEP}",
            )
            for client in addressed
        ]
        replies = list(grid.send_and_receive(messages, timeout=self._plan.timeout)) if messages else []
        for client, reply in self._by_client(addressed, replies, number):
            try:
                self._hear(step, client, reply, number)
                taken.add(client)
            except InvalidUpdate as fault:
                self._notice(f"round {number}: client {client}: step {step!r}: {sanitize_for_log(str(fault))}")
        return [client for client in asked if client in taken]

    def _hear(self, step: str, client: int, reply: Message, number: int) -> None:
        validate_reply(reply, client, number, number)
        with reading("its answer"):
            said, content = unpack_step(reply.content)
            if said != step:
                raise InvalidUpdate(f"its answer is of step {said!r}")
            self._aggregator.handle_reply(step, client, content)

    def _told(self, step: str, clients: Sequence[int], number: int) -> dict[int, bytes]:
        try:
            return self._aggregator.request(step, clients, number)
        except InvalidUpdate as fault:
            raise RoundFailed(f"round {number}: {fault}; the rounds before stand") from None

    def _ask(self, grid: Grid, asked: Sequence[int], number: int) -> dict[int, ProtectedUpdate]:
        """Return the contributions of those who answered as they should, by client."""
        present = self._connected(asked, number)
        orders = [self._order(client, MessageType.TRAIN, number, number - 1) for client in present]
        if self._aggregator.setup_steps:
            told = self._told(UPLOAD, present, number)
            for client, order in zip(present, orders, strict=True):
                order.content[STEP] = pack_step(UPLOAD, told[client])
        replies = list(grid.send_and_receive(orders, timeout=self._plan.timeout))
        answers: dict[int, ProtectedUpdate] = {}
        for client, reply in self._by_client(present, replies, number):
            try:
                update = self._accept(client, reply, number)
            except InvalidUpdate as fault:
                self._notice(f"round {number}: client {client}: {sanitize_for_log(str(fault))}; its answer is left out")
                continue
            if update is not None:
                answers[client] = update
        return answers

    def _by_client(
        self, asked: Sequence[int], replies: Iterable[Message], number: int
    ) -> Iterable[tuple[int, Message]]:
        """Yield the first answer of each client that was asked, in the order of the clients."""
        node_of = {self._nodes[client]: client for client in asked}
        first: dict[int, Message] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if node not in node_of:
                self._notice(f"round {number}: node {node} was not asked; its answer is left out")
            elif node_of[node] in first:
                self._notice(f"round {number}: client {node_of[node]} answered twice; the second answer is left out")
            else:
                first[node_of[node]] = reply
        for client in asked:
            if client in first:
                yield client, first[client]
            else:
                self._notice(f"round {number}: client {client} did not answer")

    def _accept(self, client: int, reply: Message, number: int) -> ProtectedUpdate | None:
        """Return the contribution in ``reply``; None from a client whose budget is spent.

        Raises
        ------
        InvalidUpdate
            It is none, or not of this round, or cannot be added.
        """
        status = validate_reply(reply, client, number, number - 1)
        self._remember(client, status.applied)
        if status.finished:
            self._finished.add(client)
            self._notice(f"round {number}: client {client} has spent its privacy budget and trains no more")
            return None
        if UPDATE not in reply.content:
            if status.applied >= number - 1:
                raise InvalidUpdate("its answer holds no contribution")
            anew = "" if self._plan.accounted else " and begins anew in the next round"
            raise InvalidUpdate(f"it has lost its state{anew}")
        with reading("its contribution"):
            update = unpack_update(get_record(reply.content, ArrayRecord, UPDATE))
            if update.length != self._plan.length:
                raise InvalidUpdate(f"{update.length} values, {self._plan.length} are expected")
            self._aggregator.check(update, client, number)
            return update

    def _close(self, asked: Sequence[int], answers: dict[int, ProtectedUpdate], number: int) -> None:
        if len(answers) < max(1, self._plan.least):
            raise RoundFailed(
                f"round {number}: {len(answers)} of {len(asked)} clients answered as they should, "
                f"{max(1, self._plan.least)} are needed; the rounds before stand"
            )
        if len(answers) < len(asked):
            self._notice(f"round {number} goes on with {len(answers)} of {len(asked)} clients")

    def _sum(self, answers: dict[int, ProtectedUpdate], number: int) -> ProtectedUpdate:
        try:
            return self._aggregator.add([answers[client] for client in sorted(answers)])
        except SecretKeyExposed:
            raise
        except UNREADABLE as fault:
            why = sanitize_for_log(str(fault)) if isinstance(fault, InvalidUpdate) else type(fault).__name__
            raise RoundFailed(f"round {number}: no sum can be formed: {why}; the rounds before stand") from fault

    def _measure(self, grid: Grid, answered: Sequence[int], number: int) -> tuple[float, float]:
        """Ask a client for loss and accuracy, since all know the same global model and the images are public."""
        for client in answered:
            order = self._order(client, MessageType.EVALUATE, number, number)
            replies = list(grid.send_and_receive([order], timeout=self._plan.timeout))
            mine = [reply for reply in replies if reply.metadata.src_node_id == self._nodes[client]]
            for reply in mine[:1]:
                with suppress(InvalidUpdate):
                    loss, accuracy, status = parse_metrics(reply, client, number)
                    self._remember(client, status.applied)
                    return loss, accuracy
            self._notice(f"round {number}: client {client} did not measure the global model; the next is asked")
        raise RoundFailed(f"round {number}: no client measured the global model")

    def _order(self, client: int, kind: str, number: int, until: int) -> Message:
        """Return what a client is told, with the sums until a round that it has not seen."""
        known = self._known[client]
        order = RoundRequest(number, max(known, 0), self._accepted.get(client, 0))
        content = RecordDict({ORDER: pack_fields(order), SUMS: self._sums_after(known, until)})
        if known < 0:
            content[INITIAL] = pack_vector(self._plan.initial)
        return Message(content, dst_node_id=self._nodes[client], message_type=kind)

    def _sums_after(self, known: int, until: int) -> ArrayRecord:
        """Return the sums of the rounds after ``known``: one record for all clients that have come as far."""
        stretch = range(known + 1, until + 1)
        if self._packed is None or self._packed[0] != stretch:
            self._packed = stretch, pack_sums({past: self._sums[past] for past in stretch if past in self._sums})
        return self._packed[1]
