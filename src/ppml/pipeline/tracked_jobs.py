"""Planned jobs for the comparison with records: the texts that decide the result, and the paths of all files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ppml.jobs.record import JobDescription
from ppml.pipeline.plan import Plan, PlannedJob, flat

COMMAND = "exec python -m ppml.jobs {params.arguments} > {log:q} 2>&1"
"""The shell command of every rule; the code digest covers how a stage reads its arguments."""


@dataclass(frozen=True)
class TrackedJob(JobDescription):
    """A planned job that writes a record."""

    wildcards: Mapping[str, str]
    """The wildcards of the rule by name."""
    result: str
    """The result that the job belongs to, for instance ``arm fl``."""
    required: bool = True
    """Whether a run without targets makes the outputs if they are missing."""
    follows_checkpoint: bool = False
    """Whether the job depends on the checkpoint of its run."""

    @property
    def name(self) -> str:
        """Rule and wildcards, for instance ``train fl/0``."""
        return f"{self.rule} {'/'.join(self.wildcards.values())}".strip()


def track_jobs(plan: Plan) -> list[TrackedJob]:
    """Return all jobs of a plan; a job follows all jobs that make its inputs, and the runs of an arm stay together."""
    required = set(plan.results())
    jobs = [_track(job, required) for job in plan.jobs()]
    arms = {arm: place for place, arm in enumerate(plan.config.arms)}
    of_arms = [job for job in jobs if "arm" in job.wildcards]
    of_arms.sort(key=lambda job: (arms[job.wildcards["arm"]], int(job.wildcards["seed"])))
    first = next(place for place, job in enumerate(jobs) if "arm" in job.wildcards)
    others = [job for job in jobs if "arm" not in job.wildcards]
    return [*others[:first], *of_arms, *others[first:]]


def target_files(jobs: Iterable[TrackedJob]) -> dict[str, list[str]]:
    """Return the output files of each rule."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        found.setdefault(job.rule, []).extend(job.outputs)
    return found


def _track(job: PlannedJob, required: set[str]) -> TrackedJob:
    fixed = job.stage.level.by_rule
    outputs = tuple(job.output_files())
    return TrackedJob(
        job.rule,
        COMMAND,
        params=tuple(sorted([job.spec, job.digest], key=repr)),
        inputs=tuple(flat(job.inputs)),
        outputs=outputs,
        wildcards={name: value for name, value in job.key.items() if name not in fixed},
        result=job.stage.level.result.format(stage=job.stage.name, **job.key),
        required=not required.isdisjoint(outputs),
        follows_checkpoint=job.stage.needs_noise,
    )
