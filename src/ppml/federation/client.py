"""The client: applies the sums that it has not seen, does its part of a round, seals what it sends."""

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
from ppml.federation.algorithms import FederatedAlgorithm, ClientData, RoundContext, count_steps
from ppml.federation.client_state import ClientState
from ppml.federation.global_state import GlobalState
from ppml.federation.messages import (
    ACCOUNT,
    PLACEHOLDER,
    INITIAL,
    METRICS,
    STATUS,
    STEP,
    SUMS,
    UPDATE,
    RoundRequest,
    Status,
    pack_events,
    pack_fields,
    pack_step,
    pack_update,
    get_record,
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
"""Of what a client says of its failure, in characters."""

Handler = Callable[[Message, Context], Message]
"""What answers one kind of message."""


class SumUnavailable(LookupError):
    """A sum that a client has not seen was made before the training was interrupted, and is not there any more."""


def no_prefetch(clients: Sequence[int]) -> None:
    """Do nothing before clients are asked: each trains for itself."""


class StepCache:
    """The last global step that a client of this process took: the next takes mostly the same, from the same state.

    Each opens the sum for itself; what follows from it is calculated once.
    """

    def __init__(self) -> None:
        self._from: tuple[tuple[ArrayRecord, ArrayRecord], int] | None = None
        self._opened: Grid = np.zeros(0, dtype=np.int64)
        self._to: tuple[ArrayRecord, ArrayRecord] | None = None

    def take(self, population: ClientPool, state: ClientState, opened: Grid, number: int) -> None:
        """Let ``state`` take the step along the sum of round ``number``."""
        begins = state.packed, number
        if self._to is not None and self._from == begins and np.array_equal(self._opened, opened):
            state.adopt(self._to, number)
            return
        values = population.codec.decode(opened)
        state.advance(population.work.apply(values, state.common, number), number)
        self._from, self._opened, self._to = begins, opened, state.packed


@dataclass(frozen=True)
class ClientPool:
    """Everything that lives at the clients.

    Parameters
    ----------
    model : nn.Module
        A resident model that each client loads its weights into.
    members : mapping of int to Member
        The clients of this process, by their numbers.
    work : FederatedAlgorithm
        What they do in a round.
    side : ClientSide
        Seals contributions and opens sums.
    codec : FixedPointCodec
        The grid.
    test : Examples
        Public images that a client may evaluate the global model on.
    seeds : mapping of int to Randomness
        The seed of each client, a tree of its own: the client draws from ``child("round", r)`` of it in round ``r``.
    rounds : int
        Length of the training.
    expect : callable
        Called with the clients that will be asked to train, before the first of them is: some train at once.
    """

    model: nn.Module
    members: Mapping[int, ClientData]
    work: FederatedAlgorithm
    side: ClientSide
    codec: FixedPointCodec
    test: Examples
    seeds: Mapping[int, Randomness]
    rounds: int
    prefetch: Callable[[Sequence[int]], None] = no_prefetch
    last_step: StepCache = field(default_factory=StepCache, init=False, compare=False)


def build_client_app(pool_of: Callable[[Context], ClientPool]) -> ClientApp:
    """Return the app that every client runs; what a client remembers is in its Flower context.

    Parameters
    ----------
    pool_of : callable
        Returns the population of a run, the same one each time it is asked in one process.
    """
    app = ClientApp()

    @app.query()
    @reply_with_errors
    def report_status(message: Message, context: Context) -> Message:
        return _reply(message, Status(client_number(context), 0, ClientState(context.state).applied))

    @app.query(ACCOUNT)
    @reply_with_errors
    def give_account(message: Message, context: Context) -> Message:
        order, state = unpack_request(message.content), ClientState(context.state)
        caught_up = _catch_up(pool_of(context), message.content, order, state)
        account = pack_events(state.events)
        account["model"] = digest_of(state.common.parameters) if caught_up else ""
        return _reply(message, Status(client_number(context), order.number, state.applied), {ACCOUNT: account})

    @app.query(STEP)
    @reply_with_errors
    def take_a_step(message: Message, context: Context) -> Message:
        client, order, state = client_number(context), unpack_request(message.content), ClientState(context.state)
        step, content = unpack_step(message.content)
        answer = pool_of(context).side.respond(step, client, order.number, content)
        return _reply(message, Status(client, order.number, state.applied), {STEP: pack_step(step, answer)})

    @app.train()
    @reply_with_errors
    def train(message: Message, context: Context) -> Message:
        population = pool_of(context)
        client, order, state = client_number(context), unpack_request(message.content), ClientState(context.state)
        if not _catch_up(population, message.content, order, state):
            return _reply(message, Status(client, order.number, state.applied))
        state.settle(order.accepted)
        member = population.members[client]
        left = None if member.budget is None else member.budget - count_steps(state.events)
        status = Status(client, order.number, state.applied, finished=left is not None and left <= 0)
        if status.finished:
            return _reply(message, status)
        if STEP in message.content:
            step, content = unpack_step(message.content)
            population.side.respond(step, client, order.number, content)
        update = _contribute(population, client, order.number, state, left)
        return _reply(message, status, {UPDATE: pack_update(update)})

    @app.evaluate()
    @reply_with_errors
    def evaluate_global(message: Message, context: Context) -> Message:
        population = pool_of(context)
        client, order, state = client_number(context), unpack_request(message.content), ClientState(context.state)
        if not _catch_up(population, message.content, order, state):
            return _reply(message, Status(client, order.number, state.applied))
        unflatten_into(population.model, state.common.parameters)
        loss, accuracy = evaluate(population.model, population.test)
        metrics = MetricRecord({"loss": loss, "accuracy": accuracy})
        return _reply(message, Status(client, order.number, state.applied), {METRICS: metrics})

    return app


def client_number(context: Context) -> int:
    """Return which client a context is of."""
    return cast(int, context.node_config["partition-id"])


def reply_with_errors(handler: Handler) -> Handler:
    """Return the handler of a message that answers also where it fails.

    Raised out of the app, an error would take the state along on Ray, and with it the account of what ran; and each
    engine would send on what it says.
    """

    @functools.wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Exception as error:
            return error_reply(message, error)

    return answer


def error_reply(message: Message, error: Exception) -> Message:
    """Return the answer of a client that could not do what it was asked.

    What a library says of an error may show records of the client: the server is told its kind and its place alone, and
    the client's own log gets the way there. The project's own errors say nothing of records, and are told in full, as
    are those of the operating system, without names of files.
    """
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, _told(error)), reply_to=message)


def _told(error: Exception) -> str:
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


def _catch_up(population: ClientPool, content: RecordDict, order: RoundRequest, state: ClientState) -> bool:
    """Apply the sums that this client has not seen, each once; return whether it has the model then."""
    if INITIAL in content and state.applied < 0:
        start = unpack_vector(get_record(content, ArrayRecord, INITIAL))
        state.advance(GlobalState(start, population.work.start(len(start))), applied=0)
    if state.applied < order.begins or state.applied < 0:
        return False
    for number, total in unpack_sums(get_record(content, ArrayRecord, SUMS)).items():
        if number > state.applied:
            if total.scheme == PLACEHOLDER:
                raise SumUnavailable(f"the sum of round {number} is gone: it was made before the training was interrupted")
            population.last_step.take(population, state, population.side.reveal(total), number)
    return True


def _contribute(population: ClientPool, client: int, number: int, state: ClientState, left: int | None) -> ProtectedUpdate:
    """Do the part of ``client`` in round ``number``, account for it, and seal it."""
    turn = RoundContext(
        client=client,
        number=number,
        rounds=population.rounds,
        state=state.common,
        own=state.own,
        steps_left=left,
        rng=population.seeds[client].child("round", number),
    )
    try:
        contribution = population.work.contribute(population.model, population.members[client], turn)
    except TrainingDiverged as error:
        state.remember(error.events)
        raise
    # Before anything leaves: an answer that is lost on the way may still have been read.
    state.remember(contribution.events)
    state.propose(contribution.own, number)
    rounded = population.codec.encode(contribution.values)
    noisy = rounded if contribution.noise is None else rounded + contribution.noise
    return population.side.protect(noisy, client, number)
