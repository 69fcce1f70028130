"""A federated training, driven in process."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import logging
from collections.abc import Callable, Sequence
from functools import partial

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from ppml.accounting.events import MechanismEvent, compose
from ppml.aggregation.interfaces import Apart
from ppml.federation.checkpoint import NO_CHECKPOINT, Checkpoint, Progress
from ppml.federation.client import Population, build_client_app
from ppml.federation.client_state import ClientState
from ppml.federation.factory import ServerParts
from ppml.federation.global_state import GlobalState
from ppml.federation.server import RoundEnd, Server
from ppml.federation.server_state import Standing
from ppml.federation.simulation_grid import SERVER_NODE, Contexts, Fails, InProcessGrid, Meter, Tap, never
from ppml.learning.parameters import load_parameters
from ppml.learning.result import HistoryRow, Outcome

logging.getLogger("flwr").setLevel(logging.WARNING)


def build_server_app(
    parts: ServerParts,
    after_round: Callable[[RoundEnd], None],
    notice: Callable[[str], None],
    standing: Standing | None = None,
) -> ServerApp:
    """Return the app that the server runs; see :class:`~ppml.federation.server.Server`.

    It is given nothing of the clients, so that it holds no reference to them, to their key or to the model of a
    training that goes on.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        Server(parts.plan, parts.aggregator, after_round, notice, parts.release, standing).run(grid)

    return app


def train_federated(
    population: Population,
    server: ServerParts,
    report: Callable[[HistoryRow], None],
    *,
    checkpoint: Checkpoint = NO_CHECKPOINT,
    notice: Callable[[str], None] = print,
    fails: Fails = never,
    taps: Sequence[Tap] = (),
    workers: int = 1,
    apart: Apart | None = None,
) -> Outcome:
    """Train a global model over the clients of ``population``.

    Parameters
    ----------
    population : Population
        The clients, with a model that holds the initial weights.
    server : ServerParts
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
    meter = Meter(progress.bytes_up, progress.bytes_down) if progress else Meter()
    client_app = build_client_app(lambda context: population)
    grid = InProcessGrid(client_app, len(population.members), (meter, *taps), fails, workers, population.expect, apart)
    contexts = grid.contexts
    if progress:
        _restore(_states(contexts), progress)

    def reached(end: RoundEnd) -> Progress:
        states = _states(contexts)
        for client, state in enumerate(states):
            state.settle(end.standing.accepted.get(client, 0))
        return Progress(
            standing=end.standing,
            rounds=server.plan.rounds,
            common=newest(states),
            own=[state.own for state in states],
            events=[state.events for state in states],
            server_events=tuple(by_server),
            history=tuple(history),
            bytes_up=meter.sent["up"],
            bytes_down=meter.sent["down"],
        )

    # The server calls this, so it sees what the clients remember, and not the clients, who hold the key.
    def after_round(end: RoundEnd) -> None:
        history.append(HistoryRow(end.standing.number, None, end.loss, end.accuracy, end.clients))
        by_server[:] = compose([*by_server, *end.events])
        checkpoint.save(partial(reached, end))
        report(history[-1])

    standing = progress.standing if progress else None
    server_app = build_server_app(server, after_round, notice, standing)
    try:
        server_app(grid, Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={}))
        states = _states(contexts)
    finally:
        grid.close()
    load_parameters(population.model, newest(states).parameters)
    events = [compose([*state.events, *by_server]) for state in states]
    return Outcome([population.model], history, events, meter.sent["up"], meter.sent["down"])


def _states(contexts: Contexts) -> list[ClientState]:
    return [ClientState(context.state) for context in contexts().values()]


def newest(states: Sequence[ClientState]) -> GlobalState:
    """Return what the client knows that is furthest: the others come to the same bits when they are asked again."""
    return max(states, key=lambda state: state.applied).common


def _restore(states: Sequence[ClientState], progress: Progress) -> None:
    """Put every client where it was after a round; each goes on with the account that it has."""
    for state, own, events in zip(states, progress.own, progress.events, strict=True):
        state.advance(progress.common, applied=progress.number)
        state.keep(own)
        state.remember(events)
