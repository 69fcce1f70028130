"""Stage calibrate: the noise of each owner, for the target epsilon or as configured."""

from __future__ import annotations

from functools import partial

from ppml.accounting.budget import PrivacyBudget
from ppml.accounting.calibration import UnreachableEpsilon, calibrate
from ppml.accounting.cross_check import TIGHTEST
from ppml.accounting.epsilon import ACCOUNTANTS, epsilon
from ppml.accounting.events import MechanismEvent
from ppml.accounting.schedule import MechanismSchedule, mechanism_schedules
from ppml.config.arm import Schedule
from ppml.config.technique import ClientLevel, ExampleLevel
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json
from ppml.jobs.job import Job
from ppml.jobs.parallel_map import parallel_map

UNITS = {"example": "records", "client": "clients"}


def run(job: Job) -> None:
    """Write each owner's noise multiplier. The specification holds the arm."""
    content = job.spec["arm"]
    schedule = Schedule.model_validate({key: content[key] for key in Schedule.model_fields if key in content})
    privacy = schedule.privacy
    if not isinstance(privacy, ExampleLevel | ClientLevel):
        raise ValueError("only arms with privacy are calibrated")
    if "partition" in job.inputs:
        sizes = [len(part) for part in read_json(job.inputs["partition"])["clients"]]
    else:
        sizes = [read_json(job.inputs["about"])["n_train"]]
    planned = mechanism_schedules(schedule, sizes)
    noise = parallel_map(partial(_noise, privacy), planned, job.threads, "noise of owners")
    result: dict[str, list[float] | list[int]] = {"noise_multipliers": [noise[plan] for plan in planned]}
    if isinstance(privacy, ExampleLevel) and privacy.budget is not None:
        steps = parallel_map(partial(_affordable, privacy), planned, job.threads, "steps within the budget of owners")
        result["affordable_steps"] = [steps[plan] for plan in planned]
    write_json(job.outputs["noise"], result)


def _noise(privacy: ExampleLevel | ClientLevel, plan: MechanismSchedule) -> float:
    return privacy.noise_multiplier or _search(privacy, plan)


def _search(privacy: ExampleLevel | ClientLevel, plan: MechanismSchedule) -> float:
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
            f"({plan.population} {UNITS[privacy.kind]}) is {error.smallest:.3g}; raise privacy.epsilon, or set "
            f"privacy.accountant to one of {others}"
        ) from None


def _affordable(privacy: ExampleLevel, plan: MechanismSchedule) -> int:
    """Return how many of the planned steps the budget allows."""
    rate, planned = plan.sample_rate, plan.steps
    assert privacy.budget is not None and privacy.noise_multiplier is not None
    step = MechanismEvent(rate, privacy.noise_multiplier, 1, privacy.max_grad_norm)
    budget = PrivacyBudget(privacy.budget, delta=privacy.delta, accountant=privacy.accountant)
    steps = budget.affordable_steps(step, at_most=planned)
    if not steps:
        first = epsilon([step], privacy.delta, "rdp")
        raise UserError(
            f"privacy.budget: got {privacy.budget:g}, which not even one step fits into: at noise_multiplier "
            f"{privacy.noise_multiplier:g} and sample rate {rate:.4g} ({plan.population} records) a step spends "
            f"{first:.3g} (RDP) at delta {privacy.delta:g}; raise privacy.noise_multiplier or privacy.budget"
        )
    return steps
