"""Rule calibrate: the noise that each owner needs for the target epsilon, or the noise that is configured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ppml.accounting.budget import PrivacyBudget
from ppml.accounting.calibration import UnreachableEpsilon, calibrate
from ppml.accounting.epsilon import ACCOUNTANTS, epsilon
from ppml.accounting.events import MechanismEvent
from ppml.accounting.plan import planned_steps
from ppml.config.arm import Arm
from ppml.config.technique import ExampleLevel
from ppml.errors import UserError
from ppml.records.files import read_json, write_json


def main(argv: Sequence[str] | None = None) -> None:
    """Write each owner's noise multiplier; ``--spec`` holds the arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--about", type=Path, required=True)
    parser.add_argument("--partition", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    arm = Arm.model_validate(arguments.spec["arm"])
    privacy = arm.privacy
    if not isinstance(privacy, ExampleLevel):
        raise ValueError("only arms with privacy are calibrated")
    if arguments.partition:
        sizes = [len(part) for part in read_json(arguments.partition)["clients"]]
    else:
        sizes = [read_json(arguments.about)["n_train"]]
    noise = {records: privacy.noise_multiplier or _search(arm, privacy, records) for records in dict.fromkeys(sizes)}
    content: dict[str, list[float] | list[int]] = {"noise_multipliers": [noise[records] for records in sizes]}
    if privacy.budget is not None:
        content["affordable_steps"] = [_affordable(arm, privacy, records) for records in sizes]
    write_json(arguments.output, content)


def _search(arm: Arm, privacy: ExampleLevel, records: int) -> float:
    rate, steps = planned_steps(arm, records)
    target = privacy.epsilon or 0.0
    try:
        return calibrate(
            target=target, delta=privacy.delta, sample_rate=rate, steps=steps, accountant=privacy.accountant
        )
    except UnreachableEpsilon as error:
        # Exact Gaussian DP is for steps on all records; RDP is never the tightest.
        unfit = {privacy.accountant, "rdp"} | ({"gdp"} if rate < 1 else set())
        others = ", ".join(name for name in ACCOUNTANTS if name not in unfit)
        raise UserError(
            f"privacy.epsilon: got {target:g}, which no noise reaches: the smallest that accountant "
            f"{privacy.accountant} can state at delta {privacy.delta:g} for {steps} steps at sample rate {rate:.4g} "
            f"({records} records) is {error.smallest:.3g}; raise privacy.epsilon, or set privacy.accountant to one of "
            f"{others}"
        ) from None


def _affordable(arm: Arm, privacy: ExampleLevel, records: int) -> int:
    """Return how many of the planned steps the budget allows."""
    rate, planned = planned_steps(arm, records)
    assert privacy.budget is not None and privacy.noise_multiplier is not None
    step = MechanismEvent(rate, privacy.noise_multiplier, 1, privacy.max_grad_norm)
    budget = PrivacyBudget(privacy.budget, delta=privacy.delta, accountant=privacy.accountant)
    steps = budget.affordable(step, at_most=planned)
    if not steps:
        first = epsilon([step], privacy.delta, "rdp")
        raise UserError(
            f"privacy.budget: got {privacy.budget:g}, which not even one step fits into: at noise_multiplier "
            f"{privacy.noise_multiplier:g} and sample rate {rate:.4g} ({records} records) a step spends {first:.3g} "
            f"(RDP) at delta {privacy.delta:g}; raise privacy.noise_multiplier or privacy.budget"
        )
    return steps
