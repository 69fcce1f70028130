"""A federated training, driven in process."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
import logging
from collections.abc import Callable, Sequence

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from ppml.aggregation.protocol import Aggregator, Sealed
from ppml.federation.client import Population, build_client_app, flat_parameters, load_parameters
from ppml.federation.grid import SERVER_NODE, InProcessGrid, Meter, Tap
from ppml.federation.messages import pack_sealed, pack_vector
from ppml.federation.progress import NO_CHECKPOINT, Checkpoint, Progress
from ppml.federation.server import AfterRound, SumOnly
from ppml.federation.state import ClientState
from ppml.learning.outcome import HistoryRow, Outcome

logging.getLogger("flwr").setLevel(logging.WARNING)


def build_server_app(
    aggregator: Aggregator, population: Population, after_round: AfterRound, progress: Progress | None = None
) -> ServerApp:
    """Return the app that the server runs: ``population.rounds`` rounds, or those that ``progress`` leaves of them."""
    app = ServerApp()
    # Taken out here, so that the app holds no reference to the clients and their key, nor to the model in `progress`.
    if progress is None:
        done, opening = 0, pack_vector(flat_parameters(population.model))
    else:
        # Clients that resume have applied the last sum and open nothing. What they get in its place is of its size, so
        # that the cost is that of the training, whether it was interrupted or not.
        done, opening = progress.number, pack_sealed(Sealed("applied", 0, bytes(progress.sum_bytes)))
    left = population.rounds - done

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        SumOnly(aggregator, after_round, done).start(grid, opening, num_rounds=left)

    return app


def train_federated(
    population: Population,
    aggregator: Aggregator,
    report: Callable[[HistoryRow], None],
    checkpoint: Checkpoint = NO_CHECKPOINT,
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
    checkpoint : Checkpoint
        Has the round after which to go on, if any, and gets the state after each round before ``report`` is called.
    taps : sequence of callables
        Each sees every message; for tests that look at what reaches the server.

    Returns
    -------
    Outcome
        One model: the global one, as the clients know it.
    """
    progress = checkpoint.load()
    history: list[HistoryRow] = list(progress.history) if progress else []
    meter = Meter(progress.bytes_up, progress.bytes_down) if progress else Meter()
    grid = InProcessGrid(build_client_app(population), len(population.owned), (meter, *taps))
    states = [ClientState(context.state) for context in grid.contexts.values()]
    if progress:
        _restore(states, progress)
    rounds = population.rounds

    # The server calls this, so it is given the clients' states and not the clients, who hold the key.
    def after_round(number: int, sum_bytes: int, loss: float, accuracy: float) -> None:
        history.append(HistoryRow(number, None, loss, accuracy))
        checkpoint.save(
            Progress(
                number=number,
                rounds=rounds,
                # The first client measured, so it has applied the sum; the others will, and come to the same bits.
                parameters=states[0].parameters,
                velocity=states[0].velocity,
                events=[state.events for state in states],
                history=tuple(history),
                bytes_up=meter.sent["up"],
                bytes_down=meter.sent["down"],
                sum_bytes=sum_bytes,
            )
        )
        report(history[-1])

    server_app = build_server_app(aggregator, population, after_round, progress)
    server_app(grid, Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={}))
    load_parameters(population.model, states[0].parameters)
    return Outcome(
        [population.model], history, [state.events for state in states], meter.sent["up"], meter.sent["down"]
    )


def _restore(states: Sequence[ClientState], progress: Progress) -> None:
    """Put every client where it was after a round; each goes on with the account that it has."""
    for state, events in zip(states, progress.events, strict=True):
        state.advance(progress.parameters, progress.velocity, applied=progress.number)
        state.remember(events)
