"""The result of a training on another engine, and the apps that report it."""

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
from ppml.federation.engines.client_storage import App, with_storage
from ppml.federation.engines.environment import ANSWER_SECONDS, FAULT, JOB, NODES, RESULT
from ppml.federation.engines.reconnection import RetryingGrid
from ppml.federation.factory import ServerComponents
from ppml.federation.messages import ACCOUNT
from ppml.federation.reply_validation import sanitize_for_log
from ppml.federation.server import FederatedServer
from ppml.federation.server_state import RoundResult
from ppml.io.atomic import read_json, write_text
from ppml.learning.result import HistoryRow

CONNECT_SECONDS = 300.0
"""Seconds that the server of a deployment waits for its clients to connect."""


@dataclass
class Result:
    """The end of a training according to its clients; the model stays with them.

    Parameters
    ----------
    model : str
        SHA-256 of the global model, the same at every client; empty before the end of the training.
    history : list of HistoryRow
        A row for each round.
    events : list of tuple of MechanismEvent or None
        Mechanisms that ran on each client's examples; None without an account, so that no epsilon may be stated.
    notices : list of str
        Lines about unexpected events.
    """

    model: str = ""
    history: list[HistoryRow] = field(default_factory=list)
    events: list[tuple[MechanismEvent, ...] | None] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add_notice(self, line: str) -> None:
        """Keep a line about an unexpected event, and print it."""
        self.notices.append(line)
        print(line, flush=True)


def run_reporting_server(
    parts: ServerComponents, grid: Grid, result: Result, report: Callable[[], None] = lambda: None
) -> None:
    """Run the server, and fill ``result``; call ``report`` after each round, and once more at the end."""

    def after_round(end: RoundResult) -> None:
        result.history.append(HistoryRow(end.server_state.number, None, end.loss, end.accuracy, end.clients))
        report()

    server = FederatedServer(parts.settings, parts.aggregator, after_round, result.add_notice, parts.sum_mechanism)
    server.run(grid)
    accounts = server.collect_accounts(grid)
    received = [accounts.get(client) for client in range(parts.settings.clients)]
    result.events = [account.events if account else None for account in received]
    result.model = accounts[min(accounts)].model
    report()


def build_deployed_apps(
    server_of: Callable[[str], ServerComponents],
    pool_of: Callable[[str, int], ClientPool],
    write: Callable[[str, Result], None],
    keep: Callable[[str, ClientState], None],
) -> tuple[ServerApp, App]:
    """Return the apps of a deployment; environment variables of the site name the files that they read and write.

    Parameters
    ----------
    server_of : callable
        Returns the components of the server, by the job.
    pool_of : callable
        Returns the pool of one client, by the job and the client's number.
    write : callable
        Called at the server with the file for the result and the result.
    keep : callable
        Called at a client after its account with the file for the result and the client's state.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        file, result = os.environ[RESULT], Result()
        try:
            parts, seconds = server_of(os.environ[JOB]), float(os.environ[ANSWER_SECONDS])
            settings = replace(parts.settings, connect_timeout=min(CONNECT_SECONDS, seconds), reply_timeout=seconds)
            clients = {int(node): client for node, client in read_json(os.environ[NODES]).items()}
            retrying = cast(Grid, RetryingGrid(grid, clients, result.add_notice))
            run_reporting_server(replace(parts, settings=settings), retrying, result, lambda: write(file, result))
        except Exception as error:
            # Without this file, the process that waits for the result sees only the exit of this process.
            write_text(f"{file}{FAULT}", sanitize_for_log(str(error) or type(error).__name__))
            raise

    client_app = build_client_app(lambda context: pool_of(os.environ[JOB], client_number(context)))

    def client(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type.endswith(f".{ACCOUNT}") and RESULT in os.environ:
            keep(os.environ[RESULT], ClientState(context.state))
        return reply

    return server_app, with_storage(client, lambda: Path(os.environ[JOB]).parent)
