"""Checkpoints: the state from which a new process resumes a federated training after its last completed round."""

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
    """The state after a round. It has client states, and never a key, a ciphertext or a raw decryption.

    Parameters
    ----------
    server_state : ServerState
        The server's state after the round.
    rounds : int
        Number of rounds in the whole training.
    global_state : GlobalState
        The global model, with the sum of this round applied.
    private_states : sequence of Vectors
        Private state of each client.
    client_events : sequence of tuple of MechanismEvent
        Mechanisms that ran on each client's examples in all rounds so far.
    server_events : tuple of MechanismEvent
        Mechanisms by which the server added noise to sums.
    history : sequence of HistoryRow
        One row per round.
    bytes_up, bytes_down : int
        Bytes sent so far.
    """

    server_state: ServerState
    rounds: int
    global_state: GlobalState
    private_states: Sequence[Vectors]
    client_events: Sequence[tuple[MechanismEvent, ...]]
    server_events: tuple[MechanismEvent, ...]
    history: Sequence[HistoryRow]
    bytes_up: int
    bytes_down: int

    @property
    def number(self) -> int:
        """Number of the completed round, from 1."""
        return self.server_state.number


class CheckpointStore(Protocol):
    """Storage for the checkpoint of one training."""

    def load(self) -> TrainingCheckpoint | None:
        """Return the last checkpoint; None if the training starts from the beginning."""
        ...

    def save(self, capture: Callable[[], TrainingCheckpoint]) -> None:
        """Replace the last checkpoint by the result of ``capture``, atomically."""
        ...


class NullCheckpointStore:
    """A store without checkpoints: every training starts from the beginning."""

    def load(self) -> None:
        """Return None."""

    def save(self, capture: Callable[[], TrainingCheckpoint]) -> None:
        """Do nothing, and do not read the clients' states."""


NO_CHECKPOINT = NullCheckpointStore()
