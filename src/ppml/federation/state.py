"""What a client remembers between rounds, in its Flower context, so that every engine keeps it."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from ppml.accounting.events import MechanismEvent, compose
from ppml.federation.messages import pack_vector, unpack_vector

_PARAMETERS, _VELOCITY, _EVENTS, _ROUND = "parameters", "velocity", "events", "round"
_COLUMNS = ("sample_rate", "noise_multiplier", "steps", "max_grad_norm", "sampler")


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
    def parameters(self) -> NDArray[np.float32]:
        """The global model as this client knows it, shape ``(parameters,)``."""
        return unpack_vector(self._state.array_records[_PARAMETERS])

    @property
    def velocity(self) -> NDArray[np.float32]:
        """The server's momentum, shape ``(parameters,)``."""
        return unpack_vector(self._state.array_records[_VELOCITY])

    @property
    def applied(self) -> int:
        """The last round whose sum is in the global model; 0 at the start."""
        return cast(int, self._state.config_records[_ROUND]["applied"])

    def advance(self, parameters: NDArray[np.float32], velocity: NDArray[np.float32], applied: int) -> None:
        """Remember the global model after round ``applied``."""
        self._state[_PARAMETERS] = pack_vector(parameters)
        self._state[_VELOCITY] = pack_vector(velocity)
        self._state[_ROUND] = ConfigRecord({"applied": applied})

    @property
    def events(self) -> tuple[MechanismEvent, ...]:
        """The mechanisms that ran on this client's records over all rounds."""
        record = self._state.config_records.get(_EVENTS)
        if record is None:
            return ()
        columns = (cast(list[Any], record[column]) for column in _COLUMNS)
        return tuple(MechanismEvent(**dict(zip(_COLUMNS, row, strict=True))) for row in zip(*columns, strict=True))

    def remember(self, events: Sequence[MechanismEvent]) -> None:
        """Add ``events`` to those of earlier rounds: one account a client, never a new one each round."""
        if events:
            known = compose([*self.events, *events])
            self._state[_EVENTS] = ConfigRecord(
                {column: [getattr(event, column) for event in known] for column in _COLUMNS}
            )
