"""The result of a training, for every topology."""

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
        Mean training loss (nats); None if it is private or stays at the clients.
    loss, accuracy : float
        On the evaluation images; the mean over the models if there are several.
    clients : int or None
        Number of clients' updates in the sum of the round; None after an epoch.
    """

    step: int
    train_loss: float | None
    loss: float
    accuracy: float
    clients: int | None = None


@dataclass(frozen=True)
class TrainingResult:
    """Trained models and their history.

    Parameters
    ----------
    models : list of nn.Module
        One model, or one per client under independent training.
    history : list of HistoryRow
        In order.
    events : list of tuple of MechanismEvent
        Mechanisms executed on each owner's examples over the whole training, one tuple per owner; empty without
        privacy.
    bytes_up, bytes_down : int
        Bytes from all clients to the server and back, over the whole training.
    release : str or None
        Name of the released quantity, None without privacy; see :func:`~ppml.mechanism.release_name`.
    """

    models: list[nn.Module]
    history: list[HistoryRow]
    events: list[tuple[MechanismEvent, ...]]
    bytes_up: int = field(default=0)
    bytes_down: int = field(default=0)
    release: str | None = field(default=None)
