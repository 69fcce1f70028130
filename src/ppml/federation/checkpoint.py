"""How far a training has come: all that a new process needs to go on after the last completed round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ppml.accounting.events import MechanismEvent
from ppml.federation.global_state import GlobalState, Vectors
from ppml.federation.server_state import ServerState
from ppml.learning.result import HistoryRow


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The state after a round: what clients know, never a key, a ciphertext or a raw decryption.

    Parameters
    ----------
    standing : Standing
        Where the server is: the round that ended, and what each client has seen.
    rounds : int
        How many the training has.
    common : GlobalState
        The global model, with the sum of this round applied.
    own : sequence of Vectors
        What each client keeps for itself.
    events : sequence of tuple of MechanismEvent
        What ran on each client's records in all rounds until now; one tuple a client.
    server_events : tuple of MechanismEvent
        What the server added to sums.
    history : sequence of HistoryRow
        One row a round.
    bytes_up, bytes_down : int
        Sent until now.
    """

    server_state: ServerState
    rounds: int
    common: GlobalState
    own: Sequence[Vectors]
    events: Sequence[tuple[MechanismEvent, ...]]
    server_events: tuple[MechanismEvent, ...]
    history: Sequence[HistoryRow]
    bytes_up: int
    bytes_down: int

    @property
    def number(self) -> int:
        """The round that ended, from 1."""
        return self.server_state.number


class CheckpointStore(Protocol):
    """Where the progress of one training is kept."""

    def load(self) -> TrainingCheckpoint | None:
        """Return what was saved last, None where the training starts from the beginning."""
        ...

    def save(self, reached: Callable[[], TrainingCheckpoint]) -> None:
        """Keep what ``reached`` returns in place of what was kept before: whole, or not at all."""
        ...


class NullCheckpointStore:
    """Keeps nothing: every training starts from the beginning."""

    def load(self) -> None:
        """Return None."""

    def save(self, reached: Callable[[], TrainingCheckpoint]) -> None:
        """Do nothing: what clients remember is not even looked at."""


NO_CHECKPOINT = NullCheckpointStore()
