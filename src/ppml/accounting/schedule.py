"""The sampling schedule of each owner: sample rate and number of steps, shared by calibration and training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ppml.config.arm import Arm, Schedule
from ppml.config.technique import ClientLevel, ExampleLevel


def poisson_schedule(examples: int, batch_size: int | Literal["all"]) -> tuple[float, int]:
    """Return the sample rate and the number of steps of one epoch for an expected batch of ``batch_size``.

    The number of steps is ``round(1 / rate)``: ``int(1 / rate)`` loses a step at some sizes.

    Examples
    --------
    >>> poisson_schedule(examples=1000, batch_size=250)
    (0.25, 4)
    >>> poisson_schedule(examples=100, batch_size=250)
    (1.0, 1)
    >>> poisson_schedule(examples=100, batch_size="all")
    (1.0, 1)
    """
    if batch_size == "all":
        return 1.0, 1
    rate = min(1.0, batch_size / examples)
    return rate, max(1, round(1.0 / rate))


@dataclass(frozen=True)
class MechanismSchedule:
    """The planned mechanism of one owner.

    Parameters
    ----------
    sample_rate : float
        Probability with which an example, or a client, enters a step.
    steps : int
        Number of steps of the whole training.
    population : int
        Number of examples, or clients, from which a step samples.
    """

    sample_rate: float
    steps: int
    population: int


def mechanism_schedules(arm: Arm | Schedule, sizes: Sequence[int]) -> list[MechanismSchedule]:
    """Return the schedule of each owner; ``sizes`` are their numbers of examples.

    If the sum of all owners carries the noise, all schedules are equal: a step samples all examples, or clients.
    """
    rounds = getattr(arm.topology, "rounds", 1)
    match arm.privacy:
        case ClientLevel():
            return [MechanismSchedule(1.0, rounds, len(sizes))] * len(sizes)
        case ExampleLevel(noise="distributed"):
            rate, _ = poisson_schedule(sum(sizes), arm.training.batch_size)
            return [MechanismSchedule(rate, rounds, sum(sizes))] * len(sizes)
    return [_owner_schedule(arm, size, rounds) for size in sizes]


def _owner_schedule(arm: Arm | Schedule, examples: int, rounds: int) -> MechanismSchedule:
    rate, steps = poisson_schedule(examples, arm.training.batch_size)
    return MechanismSchedule(rate, steps * arm.training.epochs * rounds, examples)
