"""How many steps an owner of records will take, and at which rate: the plan that calibration and training share."""

from __future__ import annotations

from typing import Literal

from ppml.config.arm import Arm


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


def planned_steps(arm: Arm, records: int) -> tuple[float, int]:
    """Return the sample rate and the steps of an owner of ``records`` records over the whole training of ``arm``."""
    rate, steps = poisson_plan(records, arm.training.batch_size)
    return rate, steps * arm.training.epochs * getattr(arm.topology, "rounds", 1)
