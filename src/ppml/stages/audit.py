"""Stage audit: measure, release by release, the output of an arm's private training on examples of the auditor."""

from __future__ import annotations

from ppml.accounting.schedule import mechanism_schedules
from ppml.auditing.canary import AuditTarget, audit
from ppml.auditing.random_path import random_path
from ppml.config.arm import Arm
from ppml.io.atomic import read_json, write_json
from ppml.io.canonical_json import digest
from ppml.jobs.job import Job
from ppml.randomness import Randomness
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_examples, read_partition


def run(job: Job) -> None:
    """Write audit.json, which holds measured values only; the stage collect judges them together with other arms.

    The specification holds arm, steps, root_seed and device. The audit trains the arm as the stage train does, on
    examples of its own: random inputs, or, for an arm with transforms, its transformed inputs (input ``train``) with
    other labels. The input ``source`` is about.json before the transforms.
    """
    spec, inputs = job.spec, job.inputs
    arm = Arm.model_validate(spec["arm"])
    contract = read_contract(inputs["about"])
    sizes = (
        [len(part) for part in read_partition(inputs["partition"])]
        if "partition" in inputs
        else [read_json(inputs["about"])["n_train"]]
    )
    calibrated = read_json(inputs["noise"])
    affordable_steps = calibrated.get("affordable_steps")
    target = AuditTarget(
        arm=arm,
        sizes=tuple(sizes),
        noise_multipliers=tuple(calibrated["noise_multipliers"]),
        affordable_steps=None if affordable_steps is None else tuple(affordable_steps),
        planned=tuple(schedule.steps for schedule in mechanism_schedules(arm, sizes)),
        contract=contract,
        drawn_shape=read_contract(inputs["source"]).shape,
        inputs=read_examples(inputs["train"], contract, spec["device"]).inputs if "train" in inputs else None,
        device=spec["device"],
    )
    # The random draws depend on the content of the arm, and not on its name.
    rng = Randomness(spec["root_seed"]).child("seed", job.seed, "audit", digest(random_path(spec["arm"])))
    measured = audit(target, releases=spec["steps"], rng=rng)
    write_json(job.outputs["audit"], measured.to_json())
