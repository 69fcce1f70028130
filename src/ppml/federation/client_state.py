"""The state of a client between rounds. It is part of the client's Flower context, so that every engine keeps it."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
from collections.abc import Sequence
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from ppml.accounting.events import MechanismEvent, compose
from ppml.federation.global_state import GlobalState, Vectors
from ppml.federation.messages import (
    get_record,
    pack_events,
    pack_vector,
    pack_vectors,
    unpack_events,
    unpack_vector,
    unpack_vectors,
)

_PARAMETERS, _MEMORY, _PRIVATE, _EVENTS, _ROUND = "parameters", "memory", "private", "events", "round"
_STAGED, _STAGED_ROUND = "staged", "staged_round"
NO_MODEL = -1
"""Last applied round of a client that has no model yet."""


class ClientState:
    """A typed view of the state of a Flower context.

    Parameters
    ----------
    state : RecordDict
        ``context.state``. Changes of this object are written to it.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = state

    @property
    def global_state(self) -> GlobalState:
        """The global state after the last applied round."""
        parameters, memory = self.packed
        return GlobalState(unpack_vector(parameters), unpack_vectors(memory))

    @property
    def applied(self) -> int:
        """The last round whose sum is in the global model; 0 at the start, -1 without a model."""
        if _ROUND not in self._state:
            return NO_MODEL
        return cast(int, get_record(self._state, ConfigRecord, _ROUND)["applied"])

    @property
    def packed(self) -> tuple[ArrayRecord, ArrayRecord]:
        """The records of :attr:`global_state`: parameters and memory."""
        return get_record(self._state, ArrayRecord, _PARAMETERS), get_record(self._state, ArrayRecord, _MEMORY)

    def apply_step(self, after: GlobalState, applied: int) -> None:
        """Set the global state after round ``applied``."""
        self.restore((pack_vector(after.parameters), pack_vectors(after.memory)), applied)

    def restore(self, packed: tuple[ArrayRecord, ArrayRecord], applied: int) -> None:
        """Set the global state after round ``applied`` from records, which another client may have packed."""
        self._state[_PARAMETERS], self._state[_MEMORY] = packed
        self.fast_forward(applied)

    def fast_forward(self, applied: int) -> None:
        """Set the last applied round and keep the global state."""
        self._state[_ROUND] = ConfigRecord({"applied": applied})

    @property
    def private(self) -> Vectors:
        """The client's private state."""
        return unpack_vectors(get_record(self._state, ArrayRecord, _PRIVATE)) if _PRIVATE in self._state else {}

    def set_private(self, private: Vectors) -> None:
        """Replace the private state by ``private``, unless that is empty."""
        if private:
            self._state[_PRIVATE] = pack_vectors(private)

    def stage(self, private: Vectors, number: int) -> None:
        """Stage a private state: it becomes valid if the sum of round ``number`` includes the client's update."""
        if private:
            self._state[_STAGED] = pack_vectors(private)
            self._state[_STAGED_ROUND] = ConfigRecord({"number": number})

    def commit(self, last_included_round: int) -> None:
        """Commit the staged private state if it belongs to ``last_included_round``; otherwise discard it."""
        if _STAGED not in self._state:
            return
        if get_record(self._state, ConfigRecord, _STAGED_ROUND)["number"] == last_included_round:
            self._state[_PRIVATE] = self._state[_STAGED]
        del self._state[_STAGED], self._state[_STAGED_ROUND]

    @property
    def events(self) -> tuple[MechanismEvent, ...]:
        """The mechanisms that ran on this client's examples in all rounds."""
        return unpack_events(get_record(self._state, ConfigRecord, _EVENTS)) if _EVENTS in self._state else ()

    def append_events(self, events: Sequence[MechanismEvent]) -> None:
        """Append ``events`` to those of earlier rounds: a client has one account for the whole training."""
        if events:
            self._state[_EVENTS] = pack_events(compose([*self.events, *events]))
