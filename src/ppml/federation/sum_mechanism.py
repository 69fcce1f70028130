"""What a server does to the sum of a round before it sends it."""

from __future__ import annotations

from typing import Protocol

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.interfaces import ProtectedUpdate


class SumMechanism(Protocol):
    """What a server does to the sum of a round before it sends it."""

    def __call__(self, total: ProtectedUpdate, number: int, /) -> tuple[ProtectedUpdate, tuple[MechanismEvent, ...]]:
        """Return the sum as it is sent, and what mechanism that was."""
        ...


def identity(total: ProtectedUpdate, number: int) -> tuple[ProtectedUpdate, tuple[MechanismEvent, ...]]:
    """Return the sum: whatever protects it was added before."""
    return total, ()
