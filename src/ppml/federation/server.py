"""The server of a federation: it requests protected updates, adds them, and sends the sums, without revealing them."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from ppml.aggregation.interfaces import UPLOAD, Aggregator, ProtectedUpdate, SecretKeyExposed
from ppml.errors import InvalidUpdate
from ppml.federation.client_registry import ClientRegistry
from ppml.federation.messages import (
    ACCOUNT,
    INITIAL,
    PLACEHOLDER,
    REQUEST,
    STEP,
    SUMS,
    UPDATE,
    RoundRequest,
    get_record,
    pack_fields,
    pack_step,
    pack_sums,
    pack_vector,
    unpack_step,
    unpack_update,
)
from ppml.federation.reply_validation import (
    PARSE_ERRORS,
    Account,
    parse_account,
    parse_metrics,
    refuse_malformed,
    sanitize_for_log,
    validate_reply,
)
from ppml.federation.server_state import RoundFailed, RoundResult, ServerSettings, ServerState
from ppml.federation.sum_mechanism import SumMechanism, identity


class FederatedServer:
    """The server, which runs the rounds over a grid.

    Parameters
    ----------
    settings : ServerSettings
        Number of rounds and clients, and the like.
    aggregator : Aggregator
        Adds protected updates; it never holds a secret key.
    after_round : callable
        Called with the result of each round.
    notice : callable
        Called with a line for every irregularity.
    sum_mechanism : SumMechanism
        Applied to each sum before the server sends it.
    server_state : ServerState or None
        State from which an interrupted training resumes; its clients have applied all earlier sums.
    """

    def __init__(
        self,
        settings: ServerSettings,
        aggregator: Aggregator,
        after_round: Callable[[RoundResult], None],
        notice: Callable[[str], None],
        sum_mechanism: SumMechanism = identity,
        server_state: ServerState | None = None,
    ) -> None:
        self._settings = settings
        self._aggregator = aggregator
        self._after_round = after_round
        self._notice = notice
        self._sum_mechanism = sum_mechanism
        self._clients = ClientRegistry(settings, notice, server_state)
        self._completed = server_state.number if server_state else 0
        # Clients of a resumed training have applied these sums. The server sends placeholders of the same size, so that
        # the traffic is that of a training without interruption.
        sizes = server_state.sum_bytes if server_state else {}
        self._sums = {number: ProtectedUpdate(PLACEHOLDER, 0, bytes(size)) for number, size in sizes.items()}
        self._last_included = dict(server_state.last_included) if server_state else {}
        self._packed_sums: tuple[range, ArrayRecord] | None = None

    def run(self, grid: Grid) -> None:
        """Run the remaining rounds; stop early when no client has any privacy budget left.

        Raises
        ------
        RoundFailed
            Too few clients replied.
        """
        for number in range(self._completed + 1, self._settings.rounds + 1):
            self._clients.discover(grid)
            finished = self._clients.finished
            selected = [client for client in self._settings.sample_clients(number) if client not in finished]
            ready = self._run_steps(grid, self._aggregator.setup_steps, selected, number)
            updates = self._collect_updates(grid, ready, number)
            if len(finished) == self._settings.clients and not updates:
                self._notice(f"round {number}: no client trains any more; the training ends after round {number - 1}")
                return
            if not updates and set(selected) <= finished:
                self._notice(f"round {number}: none of the selected clients trains any more; the round is skipped")
                continue
            left = self._settings.clients - len(finished)
            if finished and left < self._settings.min_clients:
                self._notice(
                    f"round {number}: {left} clients still train, but a sum needs at least "
                    f"{self._settings.min_clients}; the training ends after round {number - 1}"
                )
                return
            self._require_enough(selected, updates, number)
            self._finish_round(grid, updates, number)

    def _finish_round(self, grid: Grid, updates: dict[int, ProtectedUpdate], number: int) -> None:
        """Add the updates, apply the mechanism to the sum, have a client evaluate the model, and report the result."""
        included = sorted(updates)
        self._run_steps(grid, self._aggregator.unmask_steps, included, number)
        total, events = self._sum_mechanism(self._add(updates, number), number)
        self._sums[number] = total
        loss, accuracy = self._evaluate(grid, included, number)
        sizes = {past: len(one.payload) for past, one in self._sums.items()}
        self._last_included.update(dict.fromkeys(updates, number))
        clients = self._clients
        finished = tuple(sorted(clients.finished))
        state = ServerState(number, dict(clients.known), sizes, finished, dict(self._last_included))
        self._after_round(RoundResult(state, len(updates), events, loss, accuracy))

    def collect_accounts(self, grid: Grid) -> dict[int, Account]:
        """Return the accounts of the clients after the last round.

        The server reports and leaves out a client without a valid account, or with another model than the majority: the
        training is valid, but no epsilon can be stated for this client.

        Raises
        ------
        RoundFailed
            No model is that of more than half of the clients with an account.
        """
        last = max(self._sums, default=0)
        present = [client for client in sorted(self._clients.nodes) if client not in self._clients.lost]
        requests = [self._request(client, f"{MessageType.QUERY}.{ACCOUNT}", last, last) for client in present]
        accounts: dict[int, Account] = {}
        replies = list(grid.send_and_receive(requests, timeout=self._settings.reply_timeout))
        for client, reply in self._clients.replies_by_client(present, replies, last):
            try:
                accounts[client] = parse_account(reply, client, last)
            except InvalidUpdate as error:
                self._notice(f"client {client}: {sanitize_for_log(str(error))}")
        most_common = Counter(account.model for account in accounts.values()).most_common(1)
        if not most_common:
            raise RoundFailed("no client reports an account of its training with the digest of its model")
        model, count = most_common[0]
        if 2 * count <= len(accounts):
            raise RoundFailed(f"the clients have different models: at most {count} of {len(accounts)} agree")
        for client in [client for client, account in accounts.items() if account.model != model]:
            self._notice(f"client {client}: its model differs from that of {count} of {len(accounts)} clients")
            del accounts[client]
        for client in sorted(set(range(self._settings.clients)) - accounts.keys()):
            unstated = "; no epsilon can be stated for it" if self._settings.accounted else ""
            self._notice(f"client {client} reports no valid account of its training{unstated}")
        return accounts

    def _run_steps(self, grid: Grid, steps: Sequence[str], clients: Sequence[int], number: int) -> Sequence[int]:
        """Run steps of the aggregation protocol; return the clients that have completed all of them."""
        for step in steps:
            clients = self._run_step(grid, step, self._clients.connected(clients, number), number)
        return clients

    def _run_step(self, grid: Grid, step: str, clients: Sequence[int], number: int) -> list[int]:
        contents, request = self._step_contents(step, clients, number), pack_fields(RoundRequest(number, 0))
        addressed = [client for client in clients if client in contents]
        # A client without a request has nothing to do in this step.
        completed = set(clients) - set(addressed)
        messages = [
            Message(
                RecordDict({REQUEST: request, STEP: pack_step(step, contents[client])}),
                dst_node_id=self._clients.nodes[client],
                message_type=f"{MessageType.QUERY}.{STEP}",
            )
            for client in addressed
        ]
        replies = list(grid.send_and_receive(messages, timeout=self._settings.reply_timeout)) if messages else []
        for client, reply in self._clients.replies_by_client(addressed, replies, number):
            try:
                self._handle_step_reply(step, client, reply, number)
                completed.add(client)
            except InvalidUpdate as error:
                self._notice(f"round {number}: client {client}: step {step!r}: {sanitize_for_log(str(error))}")
        return [client for client in clients if client in completed]

    def _handle_step_reply(self, step: str, client: int, reply: Message, number: int) -> None:
        validate_reply(reply, client, number, number)
        with refuse_malformed("its reply"):
            found, content = unpack_step(reply.content)
            if found != step:
                raise InvalidUpdate(f"its reply is for step {found!r}")
            self._aggregator.handle_reply(step, client, content)

    def _step_contents(self, step: str, clients: Sequence[int], number: int) -> dict[int, bytes]:
        try:
            return self._aggregator.request(step, clients, number)
        except InvalidUpdate as error:
            raise RoundFailed(f"round {number}: {error}; earlier rounds stay valid") from None

    def _collect_updates(self, grid: Grid, clients: Sequence[int], number: int) -> dict[int, ProtectedUpdate]:
        """Return the valid updates, by client."""
        present = self._clients.connected(clients, number)
        requests = [self._request(client, MessageType.TRAIN, number, number - 1) for client in present]
        if self._aggregator.setup_steps:
            contents = self._step_contents(UPLOAD, present, number)
            for client, request in zip(present, requests, strict=True):
                request.content[STEP] = pack_step(UPLOAD, contents[client])
        replies = list(grid.send_and_receive(requests, timeout=self._settings.reply_timeout))
        updates: dict[int, ProtectedUpdate] = {}
        for client, reply in self._clients.replies_by_client(present, replies, number):
            try:
                update = self._parse_update(client, reply, number)
            except InvalidUpdate as error:
                reason = sanitize_for_log(str(error))
                self._notice(f"round {number}: client {client}: {reason}; its reply is ignored")
                continue
            if update is not None:
                updates[client] = update
        return updates

    def _parse_update(self, client: int, reply: Message, number: int) -> ProtectedUpdate | None:
        """Return the update in ``reply``; None from a client whose budget is spent.

        Raises
        ------
        InvalidUpdate
            The update is missing, belongs to another round, or cannot be added.
        """
        status = validate_reply(reply, client, number, number - 1)
        self._clients.update_known_round(client, status.applied)
        if status.finished:
            self._clients.finished.add(client)
            self._notice(f"round {number}: client {client} has spent its privacy budget and trains no more")
            return None
        if UPDATE not in reply.content:
            if status.applied >= number - 1:
                raise InvalidUpdate("its reply has no update")
            restart = "" if self._settings.accounted else " and starts again in the next round"
            raise InvalidUpdate(f"the client has lost its state{restart}")
        with refuse_malformed("its update"):
            update = unpack_update(get_record(reply.content, ArrayRecord, UPDATE))
            if update.length != self._settings.update_length:
                raise InvalidUpdate(f"its update has {update.length} values instead of {self._settings.update_length}")
            self._aggregator.check(update, client, number)
            return update

    def _require_enough(self, selected: Sequence[int], updates: dict[int, ProtectedUpdate], number: int) -> None:
        least = max(1, self._settings.min_clients)
        if len(updates) < least:
            raise RoundFailed(
                f"round {number}: {len(updates)} of {len(selected)} clients sent a valid update, {least} are needed; "
                "earlier rounds stay valid"
            )
        if len(updates) < len(selected):
            self._notice(f"round {number} continues with {len(updates)} of {len(selected)} clients")

    def _add(self, updates: dict[int, ProtectedUpdate], number: int) -> ProtectedUpdate:
        try:
            return self._aggregator.add([updates[client] for client in sorted(updates)])
        except SecretKeyExposed:
            raise
        except PARSE_ERRORS as error:
            reason = sanitize_for_log(str(error)) if isinstance(error, InvalidUpdate) else type(error).__name__
            raise RoundFailed(
                f"round {number}: adding the updates failed: {reason}; earlier rounds stay valid"
            ) from error

    def _evaluate(self, grid: Grid, clients: Sequence[int], number: int) -> tuple[float, float]:
        """Return loss and accuracy from one client: all have the same global model, and the test set is public."""
        for client in clients:
            request = self._request(client, MessageType.EVALUATE, number, number)
            replies = list(grid.send_and_receive([request], timeout=self._settings.reply_timeout))
            received = [reply for reply in replies if reply.metadata.src_node_id == self._clients.nodes[client]]
            for reply in received[:1]:
                with suppress(InvalidUpdate):
                    loss, accuracy, status = parse_metrics(reply, client, number)
                    self._clients.update_known_round(client, status.applied)
                    return loss, accuracy
            self._notice(f"round {number}: client {client} did not evaluate the global model; the next client is asked")
        raise RoundFailed(f"round {number}: no client evaluated the global model")

    def _request(self, client: int, kind: str, number: int, until: int) -> Message:
        """Return a request with the sums up to round ``until`` that are new to the client."""
        known = self._clients.known[client]
        request = RoundRequest(number, max(known, 0), self._last_included.get(client, 0))
        content = RecordDict({REQUEST: pack_fields(request), SUMS: self._sums_after(known, until)})
        if known < 0:
            content[INITIAL] = pack_vector(self._settings.initial_weights)
        return Message(content, dst_node_id=self._clients.nodes[client], message_type=kind)

    def _sums_after(self, known: int, until: int) -> ArrayRecord:
        """Return the sums of the rounds after ``known``: clients with the same last applied round share one record."""
        rounds = range(known + 1, until + 1)
        if self._packed_sums is None or self._packed_sums[0] != rounds:
            self._packed_sums = rounds, pack_sums({past: self._sums[past] for past in rounds if past in self._sums})
        return self._packed_sums[1]
