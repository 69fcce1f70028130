"""The settings of the server, its state after a round, the result of a round, and the error of a failed one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ppml.accounting.events import MechanismEvent


class RoundFailed(RuntimeError):
    """A round failed, for instance since too few clients replied. The earlier rounds stay valid."""


@dataclass(frozen=True)
class ServerSettings:
    """The settings of the server.

    Parameters
    ----------
    rounds : int
        Number of rounds.
    clients : int
        Number of clients.
    initial_weights : NDArray[np.float32]
        The initial weights of the model: public.
    update_length : int
        Number of values in an update.
    sample_clients : callable
        Returns the clients of a round, by its number.
    min_clients : int
        Number of updates without which a round fails.
    accounted : bool
        Whether clients keep accounts of their privacy.
    reply_timeout : float or None
        Seconds to wait for the replies to a request; None: without limit.
    connect_timeout : float
        Seconds to wait for all clients to connect.
    """

    rounds: int
    clients: int
    initial_weights: NDArray[np.float32]
    update_length: int
    sample_clients: Callable[[int], Sequence[int]]
    min_clients: int = 1
    accounted: bool = False
    reply_timeout: float | None = None
    connect_timeout: float = 0.0


@dataclass(frozen=True)
class ServerState:
    """The state of the server after a round, without the sums.

    Parameters
    ----------
    number : int
        The last completed round; 0 at the start.
    known : dict of int to int
        Last applied round of each client, as far as the server knows; -1 without a model.
    sum_bytes : dict of int to int
        Size of the sum of each round.
    finished : tuple of int
        Clients that train no more: their budget is spent, or their account is lost.
    last_included : dict of int to int
        The last round whose sum includes an update of the client, by client.
    """

    number: int
    known: dict[int, int]
    sum_bytes: dict[int, int]
    finished: tuple[int, ...] = ()
    last_included: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundResult:
    """The result of a round.

    Parameters
    ----------
    server_state : ServerState
        State of the server after the round.
    clients : int
        Number of updates in the sum.
    events : tuple of MechanismEvent
        Mechanisms by which the server added noise to the sum.
    loss, accuracy : float
        Loss and accuracy of the global model, as a client measured them.
    """

    server_state: ServerState
    clients: int
    events: tuple[MechanismEvent, ...]
    loss: float
    accuracy: float
