"""A federated training in one process."""

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
from ppml.federation.server import FederatedServer
from ppml.federation.server_state import RoundResult, ServerState
from ppml.federation.simulation_grid import (
    SERVER_NODE,
    ClientContexts,
    DropsReply,
    InProcessGrid,
    MessageObserver,
    TrafficCounter,
    no_dropouts,
)
from ppml.ipc.isolation import IsolationHooks
from ppml.learning.parameters import unflatten_into
from ppml.learning.result import HistoryRow, TrainingResult

logging.getLogger("flwr").setLevel(logging.WARNING)


def build_server_app(
    components: ServerComponents,
    after_round: Callable[[RoundResult], None],
    notice: Callable[[str], None],
    server_state: ServerState | None = None,
) -> ServerApp:
    """Return the app of the server; see :class:`~ppml.federation.server.FederatedServer`.

    Its arguments have no reference to the clients, to their key or to the model in training.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        server = FederatedServer(
            components.settings,
            components.aggregator,
            after_round,
            notice,
            components.sum_mechanism,
            server_state,
        )
        server.run(grid)

    return app


def train_federated(
    pool: ClientPool,
    components: ServerComponents,
    report: Callable[[HistoryRow], None],
    *,
    checkpoint: CheckpointStore = NO_CHECKPOINT,
    notice: Callable[[str], None] = print,
    drops_reply: DropsReply = no_dropouts,
    observers: Sequence[MessageObserver] = (),
    workers: int = 1,
    isolation: IsolationHooks | None = None,
) -> TrainingResult:
    """Train a global model with the clients of ``pool``.

    Parameters
    ----------
    pool : ClientPool
        The clients; ``pool.model`` has the initial weights.
    components : ServerComponents
        Settings and parts of the server, without a secret key.
    report : callable
        Called with the history row of each round.
    checkpoint : CheckpointStore
        Its checkpoint, if any, is where the training resumes; it gets the state after each round before ``report`` is
        called.
    notice : callable
        Called with a line for every irregularity.
    drops_reply : callable
        Decides on simulated dropouts.
    observers : sequence of callables
        Observers of all messages, for audits and tests.
    workers : int
        Number of processes for the clients; the results have the same bits.
    isolation : IsolationHooks or None
        See :class:`~ppml.aggregation.interfaces.Parties`.

    Returns
    -------
    TrainingResult
        One model: the global one, as the clients have it.

    Raises
    ------
    RoundFailed
        Too few clients replied.
    """
    resumed = checkpoint.load()
    history: list[HistoryRow] = list(resumed.history) if resumed else []
    server_events: list[MechanismEvent] = list(resumed.server_events) if resumed else []
    traffic = TrafficCounter(resumed.bytes_up, resumed.bytes_down) if resumed else TrafficCounter()
    client_app = build_client_app(lambda context: pool)
    grid = InProcessGrid(
        client_app, len(pool.clients), (traffic, *observers), drops_reply, workers, pool.prefetch, isolation
    )
    contexts = grid.contexts
    if resumed:
        _restore(_states(contexts), resumed)

    def capture(result: RoundResult) -> TrainingCheckpoint:
        states = _states(contexts)
        for client, state in enumerate(states):
            state.commit(result.server_state.last_included.get(client, 0))
        return TrainingCheckpoint(
            server_state=result.server_state,
            rounds=components.settings.rounds,
            global_state=latest_state(states),
            private_states=[state.private for state in states],
            client_events=[state.events for state in states],
            server_events=tuple(server_events),
            history=tuple(history),
            bytes_up=traffic.sent["up"],
            bytes_down=traffic.sent["down"],
        )

    # The server has a reference to this function, and through it to the clients' contexts, but not to their key.
    def after_round(result: RoundResult) -> None:
        number = result.server_state.number
        history.append(HistoryRow(number, None, result.loss, result.accuracy, result.clients))
        server_events[:] = compose([*server_events, *result.events])
        checkpoint.save(partial(capture, result))
        report(history[-1])

    server_state = resumed.server_state if resumed else None
    server_app = build_server_app(components, after_round, notice, server_state)
    try:
        server_app(grid, Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={}))
        states = _states(contexts)
    finally:
        grid.close()
    unflatten_into(pool.model, latest_state(states).parameters)
    events = [compose([*state.events, *server_events]) for state in states]
    return TrainingResult([pool.model], history, events, traffic.sent["up"], traffic.sent["down"])


def _states(contexts: ClientContexts) -> list[ClientState]:
    return [ClientState(context.state) for context in contexts().values()]


def latest_state(states: Sequence[ClientState]) -> GlobalState:
    """Return the latest global state of a client; the others reach the same bits at their next request."""
    return max(states, key=lambda state: state.applied).global_state


def _restore(states: Sequence[ClientState], checkpoint: TrainingCheckpoint) -> None:
    """Set each client to its state in a checkpoint, with its account."""
    for state, private, events in zip(states, checkpoint.private_states, checkpoint.client_events, strict=True):
        state.apply_step(checkpoint.global_state, applied=checkpoint.number)
        state.set_private(private)
        state.append_events(events)
