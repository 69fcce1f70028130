"""The mechanism that was executed: what is necessary and sufficient to account for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class MechanismEvent:
    """Steps of the Poisson-subsampled Gaussian mechanism on one owner's records.

    Parameters
    ----------
    sample_rate : float
        Probability in (0, 1] with which each record enters a step, independently.
    noise_multiplier : float
        Standard deviation of the noise in units of the clipping norm.
    steps : int
        How many times the mechanism ran: counted where the noise is added.
    max_grad_norm : float
        The clipping norm of one record's gradient. Epsilon does not depend on it.
    sampler : str
        ``"poisson"``, the only one that amplification by sampling is claimed for.
    noise_source, sampling_source : {"seeded", "secure"}
        The source of the noise and that of the samples, written by the code that drew them: generators that a seed
        repeats, or the operating system. A step on all records draws no sample; it has the source of its noise.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int
    max_grad_norm: float
    sampler: str = "poisson"
    noise_source: str = "seeded"
    sampling_source: str = "seeded"

    def to_json(self) -> dict[str, Any]:
        """Return the event as plain values."""
        return asdict(self)


def compose(events: Iterable[MechanismEvent]) -> tuple[MechanismEvent, ...]:
    """Join neighbouring events that differ in nothing but their number of steps.

    Examples
    --------
    >>> step = MechanismEvent(0.1, 1.0, 5, 1.0)
    >>> compose([step, step])[0].steps
    10
    """
    joined: list[MechanismEvent] = []
    for event in events:
        last = joined[-1] if joined else None
        if last and replace(last, steps=event.steps) == event:
            joined[-1] = replace(last, steps=last.steps + event.steps)
        else:
            joined.append(event)
    return tuple(joined)
