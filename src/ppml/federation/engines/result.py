"""What a training on another engine comes to."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import ppml.federation.flower_env  # noqa: F401  isort: skip
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from ppml.accounting.events import MechanismEvent
from ppml.federation.client import ClientPool, build_client_app, client_number
from ppml.federation.client_state import ClientState
from ppml.federation.engines.client_storage import App, remembering
from ppml.federation.engines.environment import ANSWER_SECONDS, FAULT, JOB, NODES, RESULT
from ppml.federation.engines.reconnection import PatientGrid
from ppml.federation.factory import ServerComponents
from ppml.federation.messages import ACCOUNT
from ppml.federation.reply_validation import sanitize_for_log
from ppml.federation.server import RoundResult, FederatedServer
from ppml.io.atomic import read_json, write_text
from ppml.learning.result import HistoryRow

PATIENCE = 300.0
"""Seconds that the server of a deployment waits for its clients to connect."""


@dataclass
class Result:
    """The training as its clients have it in the end; the model stays with them.

    Parameters
    ----------
    model : str
        SHA-256 of the global model, the same at every client; empty where the training did not end.
    history : list of HistoryRow
        One row a round.
    events : list of tuple of MechanismEvent or None
        What ran on each client's records; None for one that gives no account: no epsilon may be stated for it.
    notices : list of str
        What did not go as it should.
    """

    model: str = ""
    history: list[HistoryRow] = field(default_factory=list)
    events: list[tuple[MechanismEvent, ...] | None] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def reporting_server_app(
    parts_of: Callable[[Context], ServerComponents],
    result: Result,
    *,
    report: Callable[[], None] = lambda: None,
    grid_of: Callable[[Grid, Callable[[str], None]], Grid] = lambda grid, notice: grid,
) -> ServerApp:
    """Return a server app that writes into ``result`` what the training comes to.

    Parameters
    ----------
    parts_of : callable
        Returns what the server has.
    result : Result
        Is filled.
    report : callable
        Called after each round, and once more when ``result`` is complete.
    grid_of : callable
        Returns the grid to use, from Flower's and from the function that takes notices.
    """
    app = ServerApp()

    def after_round(end: RoundResult) -> None:
        result.history.append(HistoryRow(end.server_state.number, None, end.loss, end.accuracy, end.clients))
        report()

    def notice(line: str) -> None:
        result.notices.append(line)
        print(line, flush=True)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        parts = parts_of(context)
        server = FederatedServer(parts.plan, parts.aggregator, after_round, notice, parts.release)
        used = grid_of(grid, notice)
        server.run(used)
        accounts = server.accounts(used)
        given = [accounts.get(client) for client in range(parts.plan.clients)]
        result.events = [account.events if account else None for account in given]
        result.model = accounts[min(accounts)].model
        report()

    return app


def deployed_apps(
    server_of: Callable[[str], ServerComponents],
    pool_of: Callable[[str, int], ClientPool],
    write: Callable[[str, Result], None],
    keep: Callable[[str, ClientState], None],
) -> tuple[ServerApp, App]:
    """Return the apps of a deployment; variables of the site's processes tell which files they read and write.

    Parameters
    ----------
    server_of : callable
        Returns what the server has, by the job.
    pool_of : callable
        Returns the population of one client, by the job and the client's number.
    write : callable
        Gets the name of the result and what it is, at the server.
    keep : callable
        Gets the name of the result and what the client knows, at a client that has given its account.
    """
    result = Result()

    def parts_of(context: Context) -> ServerComponents:
        parts = server_of(os.environ[JOB])
        seconds = float(os.environ[ANSWER_SECONDS])
        return replace(parts, plan=replace(parts.plan, patience=min(PATIENCE, seconds), timeout=seconds))

    def patient(grid: Grid, notice: Callable[[str], None]) -> Grid:
        clients = {int(node): client for node, client in read_json(os.environ[NODES]).items()}
        return cast(Grid, PatientGrid(grid, clients, notice))

    def report() -> None:
        write(os.environ[RESULT], result)

    server_app = ServerApp()
    inner = reporting_server_app(parts_of, result, report=report, grid_of=patient)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            inner(grid, context)
        except Exception as error:
            # The process that waits for the result learns of this one's end alone.
            write_text(f"{os.environ[RESULT]}{FAULT}", sanitize_for_log(str(error) or type(error).__name__))
            raise

    client_app = build_client_app(lambda context: pool_of(os.environ[JOB], client_number(context)))

    def client(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type.endswith(f".{ACCOUNT}") and RESULT in os.environ:
            keep(os.environ[RESULT], ClientState(context.state))
        return reply

    return server_app, remembering(client, lambda: Path(os.environ[JOB]).parent)
