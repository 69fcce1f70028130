"""What a training leaves behind, whatever its topology."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from ppml.accounting.events import MechanismEvent


@dataclass(frozen=True)
class HistoryRow:
    """The state after an epoch or a round.

    Parameters
    ----------
    step : int
        Number of the epoch or round, from 1.
    train_loss : float or None
        Mean training loss (nats); None where no one may know it: under privacy, and where it stays at the clients.
    loss, accuracy : float
        On the evaluation images; the mean over the models where there are several.
    clients : int or None
        How many clients' updates are in the sum of the round; None after an epoch.
    """

    step: int
    train_loss: float | None
    loss: float
    accuracy: float
    clients: int | None = None


@dataclass(frozen=True)
class Outcome:
    """Trained models and how they came about.

    Parameters
    ----------
    models : list of nn.Module
        One, or one a client where each trains alone.
    history : list of HistoryRow
        In order.
    events : list of tuple of MechanismEvent
        What ran on each owner's records, over the whole training; one tuple an owner, empty without privacy.
    bytes_up, bytes_down : int
        Sent by all clients to the server and by the server to all clients, over the whole training.
    release : str or None
        The name of what is released, None without privacy; see :func:`~ppml.mechanism.release_name`.
    """

    models: list[nn.Module]
    history: list[HistoryRow]
    events: list[tuple[MechanismEvent, ...]]
    bytes_up: int = field(default=0)
    bytes_down: int = field(default=0)
    release: str | None = field(default=None)
