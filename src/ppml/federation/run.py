"""A federated training, driven in process."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
import logging
from collections.abc import Callable, Sequence

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from ppml.aggregation.protocol import Aggregator
from ppml.federation.client import Population, build_client_app, flat_parameters, load_parameters
from ppml.federation.grid import SERVER_NODE, InProcessGrid, Meter, Tap
from ppml.federation.messages import pack_vector
from ppml.federation.server import AfterRound, SumOnly
from ppml.federation.state import ClientState
from ppml.learning.outcome import HistoryRow, Outcome

logging.getLogger("flwr").setLevel(logging.WARNING)


def build_server_app(aggregator: Aggregator, population: Population, after_round: AfterRound) -> ServerApp:
    """Return the app that the server runs: ``population.rounds`` rounds from the model's initial weights."""
    app = ServerApp()
    # Taken out here, so that the app holds no reference to the clients and their key.
    initial, rounds = pack_vector(flat_parameters(population.model)), population.rounds

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        SumOnly(aggregator, after_round).start(grid, initial, num_rounds=rounds)

    return app


def train_federated(
    population: Population,
    aggregator: Aggregator,
    report: Callable[[HistoryRow], None],
    taps: Sequence[Tap] = (),
) -> Outcome:
    """Train a global model over the clients of ``population``.

    Parameters
    ----------
    population : Population
        The clients, with a model that holds the initial weights.
    aggregator : Aggregator
        The server's side; it never holds a secret key.
    report : callable
        Gets each round as it ends.
    taps : sequence of callables
        Each sees every message; for tests that look at what reaches the server.

    Returns
    -------
    Outcome
        One model: the global one, as the clients know it.
    """
    history: list[HistoryRow] = []

    def after_round(number: int, loss: float, accuracy: float) -> None:
        history.append(HistoryRow(number, None, loss, accuracy))
        report(history[-1])

    meter = Meter()
    clients = len(population.owned)
    server_app = build_server_app(aggregator, population, after_round)
    grid = InProcessGrid(build_client_app(population), clients, (meter, *taps))
    server_app(grid, Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={}))
    states = [ClientState(context.state) for context in grid.contexts.values()]
    load_parameters(population.model, states[0].parameters)
    events = [state.events for state in states]
    return Outcome([population.model], history, events, meter.sent["up"], meter.sent["down"])
