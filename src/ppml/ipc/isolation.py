"""The hooks that separate the processes of clients and server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _no_op() -> None:
    pass


@dataclass(frozen=True)
class IsolationHooks:
    """Callables that close inherited connections once clients and server run in different processes.

    Parameters
    ----------
    at_server : callable
        Called in the server's process; closes the clients' connections.
    at_clients : callable
        Called in the clients' process before their first step; closes the server's connections.
    """

    at_server: Callable[[], None] = _no_op
    at_clients: Callable[[], None] = _no_op
