"""What a training on another engine comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import ppml.federation.quiet  # noqa: F401  isort: skip
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from ppml.accounting.events import MechanismEvent
from ppml.federation.build import ServerParts
from ppml.federation.client import Population, build_client_app, client_number
from ppml.federation.server import RoundEnd, Server
from ppml.learning.outcome import HistoryRow


@dataclass
class Result:
    """The training as its clients have it in the end; the model stays with them.

    Parameters
    ----------
    model : str
        SHA-256 of the global model, the same at every client; empty where the training did not end.
    history : list of HistoryRow
        One row a round.
    events : list of tuple of MechanismEvent
        What ran on each client's records.
    notices : list of str
        What did not go as it should.
    """

    model: str = ""
    history: list[HistoryRow] = field(default_factory=list)
    events: list[tuple[MechanismEvent, ...]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def reporting_server_app(
    parts_of: Callable[[Context], ServerParts], result: Result, done: Callable[[Context], None]
) -> ServerApp:
    """Return a server app that writes into ``result`` what the training comes to, and calls ``done`` at its end."""
    app = ServerApp()

    def after_round(end: RoundEnd) -> None:
        result.history.append(HistoryRow(end.standing.number, None, end.loss, end.accuracy, end.clients))

    def notice(line: str) -> None:
        result.notices.append(line)
        print(line, flush=True)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        parts = parts_of(context)
        server = Server(parts.plan, parts.aggregator, after_round, notice, parts.release)
        server.run(grid)
        accounts = server.accounts(grid)
        result.events = [accounts[client].events for client in sorted(accounts)]
        result.model = accounts[0].model
        done(context)

    return app


PATIENCE = 120.0
"""Seconds that the server of a deployment waits for its clients to connect."""

ANSWER_SECONDS = 600.0
"""Seconds that a round of it waits for answers."""


def deployed_apps(
    server_of: Callable[[str], ServerParts],
    population_of: Callable[[str, int], Population],
    write: Callable[[str, Result], None],
) -> tuple[ServerApp, ClientApp]:
    """Return the apps of a deployment, whose runs are configured by ``job`` and ``result``.

    Parameters
    ----------
    server_of : callable
        Returns what the server has, by the job.
    population_of : callable
        Returns the population of one client, by the job and the client's number.
    write : callable
        Gets the name of the result and what it is.
    """
    result = Result()

    def parts_of(context: Context) -> ServerParts:
        parts = server_of(str(context.run_config["job"]))
        return replace(parts, plan=replace(parts.plan, patience=PATIENCE, timeout=ANSWER_SECONDS))

    def own(context: Context) -> Population:
        return population_of(str(context.run_config["job"]), client_number(context))

    def done(context: Context) -> None:
        write(str(context.run_config["result"]), result)

    return reporting_server_app(parts_of, result, done), build_client_app(own)
