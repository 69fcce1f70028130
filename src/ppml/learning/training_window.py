"""Which part of the whole training one call does, and the learning rate there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The stretch ``[start, stop]`` of a training that runs from 0 to 1.

    A centralized training is the whole of it; round ``r`` of ``R`` federated rounds is ``[(r - 1) / R, r / R]``.
    """

    start: float = 0.0
    stop: float = 1.0

    def at(self, share: float) -> float:
        """Return the position in the whole training after ``share`` of this stretch."""
        return self.start + share * (self.stop - self.start)


def learning_rate(peak: float, decay: str, position: float) -> float:
    """Return the learning rate at ``position`` in [0, 1] of the training.

    ``constant`` stays at ``peak``; ``linear`` falls from ``peak`` to 0.
    """
    return peak if decay == "constant" else peak * (1.0 - position)


def reach(rates: Sequence[float], momentum: float) -> float:
    """Return how far one unit of gradient in every step moves a weight: each rate, and what momentum carries on of it.

    Examples
    --------
    >>> reach([0.1, 0.1], 0.0)
    0.2
    >>> round(reach([0.1, 0.1], 0.5), 6)
    0.25
    """
    velocity = total = 0.0
    for rate in rates:
        velocity = momentum * velocity + 1.0
        total += rate * velocity
    return total
