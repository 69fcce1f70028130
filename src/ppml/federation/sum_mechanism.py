"""The server's mechanism on the sum of a round: noise for central differential privacy, or none."""

from __future__ import annotations

from typing import Protocol

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.interfaces import ProtectedUpdate


class SumMechanism(Protocol):
    """A mechanism that the server applies to the sum of a round before it sends it."""

    def __call__(self, total: ProtectedUpdate, number: int, /) -> tuple[ProtectedUpdate, tuple[MechanismEvent, ...]]:
        """Return the sum to send in round ``number``, and the mechanism events."""
        ...


def identity(total: ProtectedUpdate, number: int) -> tuple[ProtectedUpdate, tuple[MechanismEvent, ...]]:
    """Return the sum without a change: clients add any noise."""
    return total, ()
