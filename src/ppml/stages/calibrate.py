"""Rule calibrate: the noise that each owner needs for the target epsilon, or the noise that is configured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ppml.accounting.budget import PrivacyBudget
from ppml.accounting.calibration import UnreachableEpsilon, calibrate
from ppml.accounting.cross_check import TIGHTEST
from ppml.accounting.epsilon import ACCOUNTANTS, epsilon
from ppml.accounting.events import MechanismEvent
from ppml.accounting.schedule import Plan, plans
from ppml.config.arm import Schedule
from ppml.config.technique import ClientLevel, ExampleLevel
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json
from ppml.stages.parallel_map import of_each

UNITS = {"example": "records", "client": "clients"}


def main(argv: Sequence[str] | None = None) -> None:
    """Write each owner's noise multiplier; ``--spec`` holds the arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--about", type=Path, required=True)
    parser.add_argument("--partition", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="processes that share the owners")
    arguments = parser.parse_args(argv)
    given = arguments.spec["arm"]
    schedule = Schedule.model_validate({key: given[key] for key in Schedule.model_fields if key in given})
    privacy = schedule.privacy
    if not isinstance(privacy, ExampleLevel | ClientLevel):
        raise ValueError("only arms with privacy are calibrated")
    if arguments.partition:
        sizes = [len(part) for part in read_json(arguments.partition)["clients"]]
    else:
        sizes = [read_json(arguments.about)["n_train"]]
    planned = plans(schedule, sizes)
    noise = of_each(partial(_noise, privacy), planned, arguments.workers, "noise of owners")
    content: dict[str, list[float] | list[int]] = {"noise_multipliers": [noise[plan] for plan in planned]}
    if isinstance(privacy, ExampleLevel) and privacy.budget is not None:
        steps = of_each(partial(_affordable, privacy), planned, arguments.workers, "steps within the budget of owners")
        content["affordable_steps"] = [steps[plan] for plan in planned]
    write_json(arguments.output, content)


def _noise(privacy: ExampleLevel | ClientLevel, plan: Plan) -> float:
    return privacy.noise_multiplier or _search(privacy, plan)


def _search(privacy: ExampleLevel | ClientLevel, plan: Plan) -> float:
    rate, steps = plan.sample_rate, plan.steps
    target = privacy.epsilon or 0.0
    try:
        return calibrate(
            target=target, delta=privacy.delta, sample_rate=rate, steps=steps, accountant=privacy.accountant
        )
    except UnreachableEpsilon as error:
        # Exact Gaussian DP is for steps on all records; RDP is never the tightest.
        unfit = {privacy.accountant, "rdp"} | ({"gdp"} if rate < 1 else set())
        others = ", ".join(name for name in (TIGHTEST, *ACCOUNTANTS) if name not in unfit)
        raise UserError(
            f"privacy.epsilon: got {target:g}, which no noise reaches: the smallest that accountant "
            f"{privacy.accountant} can state at delta {privacy.delta:g} for {steps} steps at sample rate {rate:.4g} "
            f"({plan.out_of} {UNITS[privacy.kind]}) is {error.smallest:.3g}; raise privacy.epsilon, or set "
            f"privacy.accountant to one of {others}"
        ) from None


def _affordable(privacy: ExampleLevel, plan: Plan) -> int:
    """Return how many of the planned steps the budget allows."""
    rate, planned = plan.sample_rate, plan.steps
    assert privacy.budget is not None and privacy.noise_multiplier is not None
    step = MechanismEvent(rate, privacy.noise_multiplier, 1, privacy.max_grad_norm)
    budget = PrivacyBudget(privacy.budget, delta=privacy.delta, accountant=privacy.accountant)
    steps = budget.affordable(step, at_most=planned)
    if not steps:
        first = epsilon([step], privacy.delta, "rdp")
        raise UserError(
            f"privacy.budget: got {privacy.budget:g}, which not even one step fits into: at noise_multiplier "
            f"{privacy.noise_multiplier:g} and sample rate {rate:.4g} ({plan.out_of} records) a step spends "
            f"{first:.3g} (RDP) at delta {privacy.delta:g}; raise privacy.noise_multiplier or privacy.budget"
        )
    return steps
