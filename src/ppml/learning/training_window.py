"""The window of the training that one call covers, and its learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingWindow:
    """The interval ``[start, stop]`` of a training that runs from 0 to 1.

    A centralized training is the whole interval; round ``r`` of ``R`` federated rounds is ``[(r - 1) / R, r / R]``.
    """

    start: float = 0.0
    stop: float = 1.0

    def at(self, fraction: float) -> float:
        """Return the position in the whole training after ``fraction`` of this window."""
        return self.start + fraction * (self.stop - self.start)


def learning_rate(peak: float, schedule: str, position: float) -> float:
    """Return the learning rate at ``position`` in [0, 1] of the training.

    ``constant`` stays at ``peak``; ``linear`` falls from ``peak`` to 0.
    """
    return peak if schedule == "constant" else peak * (1.0 - position)


def cumulative_step(rates: Sequence[float], momentum: float) -> float:
    """Return the change of a weight under a unit gradient in every step, momentum included.

    Examples
    --------
    >>> cumulative_step([0.1, 0.1], 0.0)
    0.2
    >>> round(cumulative_step([0.1, 0.1], 0.5), 6)
    0.25
    """
    velocity = total = 0.0
    for rate in rates:
        velocity = momentum * velocity + 1.0
        total += rate * velocity
    return total
