"""What a client remembers between rounds, in its Flower context, so that every engine keeps it."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
from collections.abc import Sequence
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from ppml.accounting.events import MechanismEvent, compose
from ppml.federation.global_state import GlobalState, Vectors
from ppml.federation.messages import (
    pack_events,
    pack_vector,
    pack_vectors,
    get_record,
    unpack_events,
    unpack_vector,
    unpack_vectors,
)

_PARAMETERS, _MEMORY, _OWN, _EVENTS, _ROUND = "parameters", "memory", "own", "events", "round"
_PROPOSED, _PROPOSAL = "proposed", "proposal"
NO_MODEL = -1


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
        parameters, memory = self.packed
        return GlobalState(unpack_vector(parameters), unpack_vectors(memory))

    @property
    def applied(self) -> int:
        """The last round whose sum is in the global model; 0 at the start, -1 before it has a model."""
        if _ROUND not in self._state:
            return NO_MODEL
        return cast(int, get_record(self._state, ConfigRecord, _ROUND)["applied"])

    @property
    def packed(self) -> tuple[ArrayRecord, ArrayRecord]:
        """What :attr:`common` is unpacked from."""
        return get_record(self._state, ArrayRecord, _PARAMETERS), get_record(self._state, ArrayRecord, _MEMORY)

    def advance(self, common: GlobalState, applied: int) -> None:
        """Remember the state after round ``applied``."""
        self.adopt((pack_vector(common.parameters), pack_vectors(common.memory)), applied)

    def adopt(self, packed: tuple[ArrayRecord, ArrayRecord], applied: int) -> None:
        """Remember the state after round ``applied`` as another client has packed it."""
        self._state[_PARAMETERS], self._state[_MEMORY] = packed
        self.skip_to(applied)

    def skip_to(self, applied: int) -> None:
        """Remember that nothing changes until round ``applied``."""
        self._state[_ROUND] = ConfigRecord({"applied": applied})

    @property
    def own(self) -> Vectors:
        """What the client keeps for itself."""
        return unpack_vectors(get_record(self._state, ArrayRecord, _OWN)) if _OWN in self._state else {}

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
        if get_record(self._state, ConfigRecord, _PROPOSAL)["number"] == accepted:
            self._state[_OWN] = self._state[_PROPOSED]
        del self._state[_PROPOSED], self._state[_PROPOSAL]

    @property
    def events(self) -> tuple[MechanismEvent, ...]:
        """The mechanisms that ran on this client's records over all rounds."""
        return unpack_events(get_record(self._state, ConfigRecord, _EVENTS)) if _EVENTS in self._state else ()

    def remember(self, events: Sequence[MechanismEvent]) -> None:
        """Add ``events`` to those of earlier rounds: one account a client, no_dropouts a new one each round."""
        if events:
            self._state[_EVENTS] = pack_events(compose([*self.events, *events]))
