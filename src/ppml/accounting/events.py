"""The executed mechanism: the parameters that are necessary and sufficient for accounting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class MechanismEvent:
    """Steps of the Poisson-subsampled Gaussian mechanism on one owner's examples.

    Parameters
    ----------
    sample_rate : float
        Probability in (0, 1] with which each example enters a step, independently.
    noise_multiplier : float
        Standard deviation of the noise in units of the clipping norm.
    steps : int
        Number of executions of the mechanism, counted by the code that adds the noise.
    max_grad_norm : float
        The clipping norm of one example's gradient. Epsilon does not depend on it.
    sampler : str
        ``"poisson"``, the only sampler with amplification by sampling.
    noise_source, sampling_source : {"seeded", "secure"}
        The source of the noise and that of the samples, recorded by the code that draws them: seeded generators, or
        the operating system. A step on all examples draws no sample; its sampling source is that of its noise.
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
    """Join adjacent events that differ in their number of steps only.

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
