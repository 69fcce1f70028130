"""Rule audit: what the private training of an arm releases of made-up records, measured release by release."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ppml.config.arm import Arm
from ppml.io.atomic import read_json, write_json
from ppml.io.canonical_json import digest


def main(argv: Sequence[str] | None = None) -> None:
    """Write audit.json: measured values only, which the rule collect judges together with those of all other arms.

    ``--spec`` holds arm, dataset, steps, root_seed and device. The audit trains the arm as the rule train does, on
    records of its own: made up, or, where the arm has features, features of that file with other labels.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--about", type=Path, required=True)
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--partition", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)

    from ppml.accounting.schedule import plans
    from ppml.auditing.canary import Audited, audit
    from ppml.learning.determinism import repeat_to_the_bit
    from ppml.randomness import Randomness
    from ppml.stages.example_files import read_examples, read_partition

    repeat_to_the_bit()
    spec, about = arguments.spec, read_json(arguments.about)
    arm = Arm.model_validate(spec["arm"])
    sizes = [len(part) for part in read_partition(arguments.partition)] if arguments.partition else [about["n_train"]]
    calibrated = read_json(arguments.noise)
    limits = calibrated.get("affordable_steps")
    images = None
    if arguments.features:
        images = read_examples(arguments.features, spec["dataset"], spec["device"]).images
    audited = Audited(
        arm=arm,
        sizes=tuple(sizes),
        noise_multipliers=tuple(calibrated["noise_multipliers"]),
        limits=None if limits is None else tuple(limits),
        planned=tuple(plan.steps for plan in plans(arm, sizes)),
        classes=about["classes"],
        images=images,
        device=spec["device"],
    )
    # By what the arm is, so that arms draw apart and a name changes nothing.
    rng = Randomness(spec["root_seed"]).child("seed", arguments.seed, "audit", digest(spec["arm"]))
    measured = audit(audited, releases=spec["steps"], rng=rng)
    write_json(arguments.output, measured.to_json())
