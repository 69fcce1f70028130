"""What a client remembers between rounds, in its Flower context, so that every engine keeps it."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
from collections.abc import Sequence
from typing import cast

from flwr.app import ConfigRecord, RecordDict

from ppml.accounting.events import MechanismEvent, compose
from ppml.federation.global_state import GlobalState, Vectors
from ppml.federation.messages import (
    pack_events,
    pack_vector,
    pack_vectors,
    unpack_events,
    unpack_vector,
    unpack_vectors,
)

_PARAMETERS, _MEMORY, _OWN, _EVENTS, _ROUND = "parameters", "memory", "own", "events", "round"
_PROPOSED, _PROPOSAL = "proposed", "proposal"
NOTHING_APPLIED = -1


class ClientState:
    """A typed view of the state of a Flower context.

    Parameters
    ----------
    state : RecordDict
        ``context.state``; what is set here is kept there.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = state

    @property
    def common(self) -> GlobalState:
        """What this client knows of the federation."""
        records = self._state.array_records
        return GlobalState(unpack_vector(records[_PARAMETERS]), unpack_vectors(records[_MEMORY]))

    @property
    def applied(self) -> int:
        """The last round whose sum is in the global model; 0 at the start, -1 before it has a model."""
        record = self._state.config_records.get(_ROUND)
        return NOTHING_APPLIED if record is None else cast(int, record["applied"])

    def advance(self, common: GlobalState, applied: int) -> None:
        """Remember the state after round ``applied``."""
        self._state[_PARAMETERS] = pack_vector(common.parameters)
        self._state[_MEMORY] = pack_vectors(common.memory)
        self.skip_to(applied)

    def skip_to(self, applied: int) -> None:
        """Remember that nothing changes until round ``applied``."""
        self._state[_ROUND] = ConfigRecord({"applied": applied})

    @property
    def own(self) -> Vectors:
        """What the client keeps for itself."""
        record = self._state.array_records.get(_OWN)
        return {} if record is None else unpack_vectors(record)

    def keep(self, own: Vectors) -> None:
        """Keep ``own`` in place of what was kept before."""
        if own:
            self._state[_OWN] = pack_vectors(own)

    def propose(self, own: Vectors, number: int) -> None:
        """Keep ``own`` if the contribution of round ``number``, which it goes with, turns out to be in the sum."""
        if own:
            self._state[_PROPOSED] = pack_vectors(own)
            self._state[_PROPOSAL] = ConfigRecord({"number": number})

    def settle(self, accepted: int) -> None:
        """Keep what was proposed in round ``accepted``, or forget it if it was proposed in another one."""
        if _PROPOSED not in self._state:
            return
        if self._state.config_records[_PROPOSAL]["number"] == accepted:
            self._state[_OWN] = self._state.array_records[_PROPOSED]
        del self._state[_PROPOSED], self._state[_PROPOSAL]

    @property
    def events(self) -> tuple[MechanismEvent, ...]:
        """The mechanisms that ran on this client's records over all rounds."""
        record = self._state.config_records.get(_EVENTS)
        if record is None:
            return ()
        return unpack_events(record)

    def remember(self, events: Sequence[MechanismEvent]) -> None:
        """Add ``events`` to those of earlier rounds: one account a client, never a new one each round."""
        if events:
            self._state[_EVENTS] = pack_events(compose([*self.events, *events]))
