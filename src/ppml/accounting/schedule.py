"""How many steps an owner of records will take, and at which rate: the plan that calibration and training share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ppml.config.arm import Arm, Schedule
from ppml.config.technique import ClientLevel, ExampleLevel


def poisson_plan(records: int, batch_size: int | Literal["all"]) -> tuple[float, int]:
    """Return the sample rate and the steps of one epoch for an expected batch of ``batch_size``.

    The steps are a stated number and never ``int(1 / rate)``, which loses a step at some sizes.

    Examples
    --------
    >>> poisson_plan(records=1000, batch_size=250)
    (0.25, 4)
    >>> poisson_plan(records=100, batch_size=250)
    (1.0, 1)
    >>> poisson_plan(records=100, batch_size="all")
    (1.0, 1)
    """
    if batch_size == "all":
        return 1.0, 1
    rate = min(1.0, batch_size / records)
    return rate, max(1, round(1.0 / rate))


@dataclass(frozen=True)
class Plan:
    """What the mechanism of one owner will do.

    Parameters
    ----------
    sample_rate : float
        With which a record, or a client, enters a step.
    steps : int
        Over the whole training.
    out_of : int
        Of how many records, or clients, a step samples.
    """

    sample_rate: float
    steps: int
    out_of: int


def plans(arm: Arm | Schedule, records: Sequence[int]) -> list[Plan]:
    """Return the plan of each owner of so many ``records``.

    Where the owners' sum carries the noise, all have the same: a step samples the records, or clients, of all.
    """
    rounds = getattr(arm.topology, "rounds", 1)
    match arm.privacy:
        case ClientLevel():
            return [Plan(1.0, rounds, len(records))] * len(records)
        case ExampleLevel(noise_by="shares"):
            rate, _ = poisson_plan(sum(records), arm.training.batch_size)
            return [Plan(rate, rounds, sum(records))] * len(records)
    return [_own_plan(arm, own, rounds) for own in records]


def _own_plan(arm: Arm | Schedule, records: int, rounds: int) -> Plan:
    rate, steps = poisson_plan(records, arm.training.batch_size)
    return Plan(rate, steps * arm.training.epochs * rounds, records)
