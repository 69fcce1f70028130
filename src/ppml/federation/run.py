"""A federated training, driven in process."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import logging
from collections.abc import Callable, Sequence
from functools import partial

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from ppml.accounting.events import MechanismEvent, compose
from ppml.federation.checkpoint import NO_CHECKPOINT, CheckpointStore, TrainingCheckpoint
from ppml.federation.client import ClientPool, build_client_app
from ppml.federation.client_state import ClientState
from ppml.federation.factory import ServerComponents
from ppml.federation.global_state import GlobalState
from ppml.federation.server import RoundResult, FederatedServer
from ppml.federation.server_state import ServerState
from ppml.federation.simulation_grid import SERVER_NODE, Contexts, DropsReply, InProcessGrid, TrafficCounter, MessageObserver, no_dropouts
from ppml.ipc.isolation import IsolationHooks
from ppml.learning.parameters import unflatten_into
from ppml.learning.result import HistoryRow, TrainingResult

logging.getLogger("flwr").setLevel(logging.WARNING)


def build_server_app(
    parts: ServerComponents,
    after_round: Callable[[RoundResult], None],
    notice: Callable[[str], None],
    server_state: ServerState | None = None,
) -> ServerApp:
    """Return the app that the server runs; see :class:`~ppml.federation.server.FederatedServer`.

    It is given nothing of the clients, so that it holds no reference to them, to their key or to the model of a
    training that goes on.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        FederatedServer(parts.plan, parts.aggregator, after_round, notice, parts.release, server_state).run(grid)

    return app


def train_federated(
    population: ClientPool,
    server: ServerComponents,
    report: Callable[[HistoryRow], None],
    *,
    checkpoint: CheckpointStore = NO_CHECKPOINT,
    notice: Callable[[str], None] = print,
    drops_reply: DropsReply = no_dropouts,
    observers: Sequence[MessageObserver] = (),
    workers: int = 1,
    apart: IsolationHooks | None = None,
) -> TrainingResult:
    """Train a global model over the clients of ``population``.

    Parameters
    ----------
    population : Population
        The clients, with a model that holds the initial weights.
    server : ServerComponents
        What the server has; never a secret key.
    report : callable
        Gets each round as it ends.
    checkpoint : Checkpoint
        Has the round after which to go on, if any, and gets the state after each round before ``report`` is called.
    notice : callable
        Gets a line for everything that does not go as it should.
    fails : callable
        Which answers get lost, where that is simulated.
    taps : sequence of callables
        Each sees every message; for tests that look at what reaches the server.
    workers : int
        In how many processes the clients train; the bits do not depend on it.
    apart : Apart or None
        See :class:`~ppml.aggregation.interfaces.Parties`.

    Returns
    -------
    Outcome
        One model: the global one, as the clients know it.

    Raises
    ------
    RoundFailed
        Too few clients answered.
    """
    progress = checkpoint.load()
    history: list[HistoryRow] = list(progress.history) if progress else []
    by_server: list[MechanismEvent] = list(progress.server_events) if progress else []
    meter = TrafficCounter(progress.bytes_up, progress.bytes_down) if progress else TrafficCounter()
    client_app = build_client_app(lambda context: population)
    grid = InProcessGrid(client_app, len(population.members), (meter, *observers), drops_reply, workers, population.prefetch, apart)
    contexts = grid.contexts
    if progress:
        _restore(_states(contexts), progress)

    def reached(end: RoundResult) -> TrainingCheckpoint:
        states = _states(contexts)
        for client, state in enumerate(states):
            state.settle(end.server_state.accepted.get(client, 0))
        return TrainingCheckpoint(
            server_state=end.server_state,
            rounds=server.plan.rounds,
            common=latest_state(states),
            own=[state.own for state in states],
            events=[state.events for state in states],
            server_events=tuple(by_server),
            history=tuple(history),
            bytes_up=meter.sent["up"],
            bytes_down=meter.sent["down"],
        )

    # The server calls this, so it sees what the clients remember, and not the clients, who hold the key.
    def after_round(end: RoundResult) -> None:
        history.append(HistoryRow(end.server_state.number, None, end.loss, end.accuracy, end.clients))
        by_server[:] = compose([*by_server, *end.events])
        checkpoint.save(partial(reached, end))
        report(history[-1])

    server_state = progress.server_state if progress else None
    server_app = build_server_app(server, after_round, notice, server_state)
    try:
        server_app(grid, Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={}))
        states = _states(contexts)
    finally:
        grid.close()
    unflatten_into(population.model, latest_state(states).parameters)
    events = [compose([*state.events, *by_server]) for state in states]
    return TrainingResult([population.model], history, events, meter.sent["up"], meter.sent["down"])


def _states(contexts: Contexts) -> list[ClientState]:
    return [ClientState(context.state) for context in contexts().values()]


def latest_state(states: Sequence[ClientState]) -> GlobalState:
    """Return what the client knows that is furthest: the others come to the same bits when they are asked again."""
    return max(states, key=lambda state: state.applied).common


def _restore(states: Sequence[ClientState], progress: TrainingCheckpoint) -> None:
    """Put every client where it was after a round; each goes on with the account that it has."""
    for state, own, events in zip(states, progress.own, progress.events, strict=True):
        state.advance(progress.common, applied=progress.number)
        state.keep(own)
        state.remember(events)
