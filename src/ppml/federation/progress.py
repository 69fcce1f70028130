"""How far a training has come: all that a new process needs to go on after the last completed round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ppml.accounting.events import MechanismEvent
from ppml.learning.outcome import HistoryRow


@dataclass(frozen=True)
class Progress:
    """The state after a round: what clients know, never a key, a ciphertext or a raw decryption.

    Parameters
    ----------
    number, rounds : int
        The round that ended, from 1, and how many the training has.
    parameters, velocity : NDArray[np.float32]
        The global model and the server's momentum with the sum of this round applied, shape ``(parameters,)``.
    events : sequence of tuple of MechanismEvent
        What ran on each client's records in all rounds until now; one tuple a client.
    history : sequence of HistoryRow
        One row a round.
    bytes_up, bytes_down : int
        Sent until now.
    sum_bytes : int
        Size of the sealed sum of this round, which the next round begins with at every client.
    """

    number: int
    rounds: int
    parameters: NDArray[np.float32]
    velocity: NDArray[np.float32]
    events: Sequence[tuple[MechanismEvent, ...]]
    history: Sequence[HistoryRow]
    bytes_up: int
    bytes_down: int
    sum_bytes: int


class Checkpoint(Protocol):
    """Where the progress of one training is kept."""

    def load(self) -> Progress | None:
        """Return what was saved last, None where the training starts from the beginning."""
        ...

    def save(self, progress: Progress) -> None:
        """Keep ``progress`` in place of what was kept before: whole, or not at all."""
        ...


class NoCheckpoint:
    """Keeps nothing: every training starts from the beginning."""

    def load(self) -> None:
        """Return None."""

    def save(self, progress: Progress) -> None:
        """Do nothing."""


NO_CHECKPOINT = NoCheckpoint()
