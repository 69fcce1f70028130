"""Rule calibrate: the noise that each owner needs for the target epsilon, or the noise that is configured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ppml.accounting.epsilon import calibrate
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
    write_json(arguments.output, {"noise_multipliers": [noise[records] for records in sizes]})


def _search(arm: Arm, privacy: ExampleLevel, records: int) -> float:
    rate, steps = planned_steps(arm, records)
    target = privacy.epsilon or 0.0
    try:
        return calibrate(
            target=target, delta=privacy.delta, sample_rate=rate, steps=steps, accountant=privacy.accountant
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"privacy.epsilon: no noise was found that spends at most {target} at delta {privacy.delta} in {steps} "
            f"steps at sample rate {rate:.4g} ({records} records): {error}; raise epsilon, or take fewer epochs or "
            "rounds"
        ) from None
