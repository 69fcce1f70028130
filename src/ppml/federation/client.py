"""The client app: it applies new sums, computes the client's update of a round, and protects it."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import functools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from torch import nn

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import ClientSide, ProtectedUpdate
from ppml.data.examples import Examples
from ppml.federation.algorithms import ClientData, FederatedAlgorithm, RoundContext, count_steps
from ppml.federation.client_state import ClientState
from ppml.federation.global_state import GlobalState
from ppml.federation.messages import (
    ACCOUNT,
    INITIAL,
    METRICS,
    PLACEHOLDER,
    STATUS,
    STEP,
    SUMS,
    UPDATE,
    RoundRequest,
    Status,
    get_record,
    pack_events,
    pack_fields,
    pack_step,
    pack_update,
    unpack_request,
    unpack_step,
    unpack_sums,
    unpack_vector,
)
from ppml.learning.evaluation import evaluate
from ppml.learning.learner import TrainingDiverged
from ppml.learning.parameters import digest_of, unflatten_into
from ppml.randomness import Randomness

MAX_REASON_CHARACTERS = 500
"""Longest description of an error that a client sends to the server."""

Handler = Callable[[Message, Context], Message]
"""Handles one type of message."""


class SumUnavailable(LookupError):
    """A client needs a sum from before an interruption of the training, of which only the size is known."""


def no_prefetch(clients: Sequence[int]) -> None:
    """Do nothing before clients train: each trains separately."""


class StepCache:
    """The last global step in this process: the next client mostly takes the same step from the same state.

    Each client reveals the sum; the step that follows from it is computed once.
    """

    def __init__(self) -> None:
        self._before: tuple[tuple[ArrayRecord, ArrayRecord], int] | None = None
        self._total: Grid = np.zeros(0, dtype=np.int64)
        self._after: tuple[ArrayRecord, ArrayRecord] | None = None

    def apply(self, pool: ClientPool, state: ClientState, total: Grid, number: int) -> None:
        """Apply the revealed sum of round ``number`` to ``state``."""
        before = state.packed, number
        if self._after is not None and self._before == before and np.array_equal(self._total, total):
            state.restore(self._after, number)
            return
        values = pool.codec.decode(total)
        state.apply_step(pool.algorithm.apply_sum(values, state.global_state, number), number)
        self._before, self._total, self._after = before, total, state.packed


@dataclass(frozen=True)
class ClientPool:
    """The clients of this process, and everything that they share.

    Parameters
    ----------
    model : nn.Module
        A scratch module; each client overwrites its weights.
    clients : mapping of int to ClientData
        Learner and examples of each client, by its number.
    algorithm : FederatedAlgorithm
        The federated algorithm.
    side : ClientSide
        Client side of the aggregation: it protects updates and reveals sums.
    codec : FixedPointCodec
        Rounding to the grid.
    test : Examples
        Public examples on which a client may evaluate the global model.
    seeds : mapping of int to Randomness
        Seed of each client, a separate tree: the client draws from its ``child("round", r)`` in round ``r``.
    rounds : int
        Number of rounds of the training.
    prefetch : callable
        Called with the numbers of the clients of a round before the first of them trains: some learners train all at
        once.
    """

    model: nn.Module
    clients: Mapping[int, ClientData]
    algorithm: FederatedAlgorithm
    side: ClientSide
    codec: FixedPointCodec
    test: Examples
    seeds: Mapping[int, Randomness]
    rounds: int
    prefetch: Callable[[Sequence[int]], None] = no_prefetch
    step_cache: StepCache = field(default_factory=StepCache, init=False, compare=False)


def build_client_app(pool_of: Callable[[Context], ClientPool]) -> ClientApp:
    """Return the app of all clients. The state of a client is in its Flower context.

    Parameters
    ----------
    pool_of : callable
        Returns the clients of a run; in one process always the same object.
    """
    app = ClientApp()

    @app.query()
    @reply_with_errors
    def report_status(message: Message, context: Context) -> Message:
        return _reply(message, Status(client_number(context), 0, ClientState(context.state).applied))

    @app.query(ACCOUNT)
    @reply_with_errors
    def report_account(message: Message, context: Context) -> Message:
        request, state = unpack_request(message.content), ClientState(context.state)
        caught_up = _catch_up(pool_of(context), message.content, request, state)
        account = pack_events(state.events)
        account["model"] = digest_of(state.global_state.parameters) if caught_up else ""
        return _reply(message, Status(client_number(context), request.number, state.applied), {ACCOUNT: account})

    @app.query(STEP)
    @reply_with_errors
    def respond_to_step(message: Message, context: Context) -> Message:
        client, request, state = client_number(context), unpack_request(message.content), ClientState(context.state)
        step, content = unpack_step(message.content)
        response = pool_of(context).side.respond(step, client, request.number, content)
        return _reply(message, Status(client, request.number, state.applied), {STEP: pack_step(step, response)})

    @app.train()
    @reply_with_errors
    def train(message: Message, context: Context) -> Message:
        pool = pool_of(context)
        client, request, state = client_number(context), unpack_request(message.content), ClientState(context.state)
        if not _catch_up(pool, message.content, request, state):
            return _reply(message, Status(client, request.number, state.applied))
        state.commit(request.last_included_round)
        affordable = pool.clients[client].affordable_steps
        left = None if affordable is None else affordable - count_steps(state.events)
        status = Status(client, request.number, state.applied, finished=left is not None and left <= 0)
        if status.finished:
            return _reply(message, status)
        if STEP in message.content:
            step, content = unpack_step(message.content)
            pool.side.respond(step, client, request.number, content)
        update = _compute_protected_update(pool, client, request.number, state, left)
        return _reply(message, status, {UPDATE: pack_update(update)})

    @app.evaluate()
    @reply_with_errors
    def evaluate_global(message: Message, context: Context) -> Message:
        pool = pool_of(context)
        client, request, state = client_number(context), unpack_request(message.content), ClientState(context.state)
        if not _catch_up(pool, message.content, request, state):
            return _reply(message, Status(client, request.number, state.applied))
        unflatten_into(pool.model, state.global_state.parameters)
        loss, accuracy = evaluate(pool.model, pool.test)
        metrics = MetricRecord({"loss": loss, "accuracy": accuracy})
        return _reply(message, Status(client, request.number, state.applied), {METRICS: metrics})

    return app


def client_number(context: Context) -> int:
    """Return the number of the client with this context."""
    return cast(int, context.node_config["partition-id"])


def reply_with_errors(handler: Handler) -> Handler:
    """Return a handler that replies with an error message instead of raising.

    On Ray, an error that leaves the app would discard the client's state, and with it the account of the mechanisms
    that ran. And each engine would send the text of the error to the server.
    """

    @functools.wraps(handler)
    def reply(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Exception as error:
            return error_reply(message, error)

    return reply


def error_reply(message: Message, error: Exception) -> Message:
    """Return the reply of a client that failed.

    The text of a library's error may reveal examples of the client. So the server gets only its type and place, and
    the client's own log gets the traceback. Errors of this project reveal no examples: the server gets their full text,
    and that of errors of the operating system without file names.
    """
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, _public_reason(error)), reply_to=message)


def _public_reason(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, TrainingDiverged):
        text = str(error)
    elif type(error).__module__.partition(".")[0] == "ppml":
        text = f"{kind}: {error}"
    elif isinstance(error, OSError):
        text = f"{kind}: {error.strerror or 'no reason given'}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        sys.stderr.write(f"client: {kind}\n{''.join(frames.format())}")
        text = f"{kind} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else kind
    return text[:MAX_REASON_CHARACTERS]


def _reply(message: Message, status: Status, records: dict[str, object] | None = None) -> Message:
    return Message(RecordDict({STATUS: pack_fields(status), **(records or {})}), reply_to=message)  # type: ignore[dict-item]


def _catch_up(pool: ClientPool, content: RecordDict, request: RoundRequest, state: ClientState) -> bool:
    """Apply each sum that is new to this client, once; return whether it has the current model."""
    if INITIAL in content and state.applied < 0:
        initial = unpack_vector(get_record(content, ArrayRecord, INITIAL))
        state.apply_step(GlobalState(initial, pool.algorithm.initial_memory(len(initial))), applied=0)
    if state.applied < request.base_round or state.applied < 0:
        return False
    for number, total in unpack_sums(get_record(content, ArrayRecord, SUMS)).items():
        if number > state.applied:
            if total.scheme == PLACEHOLDER:
                raise SumUnavailable(f"round {number}: the sum from before the interruption is not available")
            pool.step_cache.apply(pool, state, pool.side.reveal(total), number)
    return True


def _compute_protected_update(
    pool: ClientPool, client: int, number: int, state: ClientState, left: int | None
) -> ProtectedUpdate:
    """Compute the update of ``client`` in round ``number``, account for it, and protect it."""
    context = RoundContext(
        client=client,
        number=number,
        rounds=pool.rounds,
        global_state=state.global_state,
        private=state.private,
        steps_left=left,
        rng=pool.seeds[client].child("round", number),
    )
    try:
        update = pool.algorithm.compute_update(pool.model, pool.clients[client], context)
    except TrainingDiverged as error:
        state.append_events(error.events)
        raise
    # Before the update is sent: an attacker may read a reply that the server never gets.
    state.append_events(update.events)
    state.stage(update.private, number)
    rounded = pool.codec.encode(update.values)
    noisy = rounded if update.noise is None else rounded + update.noise
    return pool.side.protect(noisy, client, number)
