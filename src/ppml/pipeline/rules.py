"""The parts of Snakemake's rules that follow from the table of stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ppml.pipeline.plan import Plan, PlannedJob
from ppml.pipeline.stages import PAGES, STAGES, Files, Key, Level, Stage


@dataclass(frozen=True)
class Rule:
    """One rule of a stage, with the values of the wildcards that have a rule for each value.

    ``threads`` and ``arguments`` are threads and params functions of Snakemake.
    """

    plan: Plan
    stage: Stage
    fixed: Key

    @property
    def name(self) -> str:
        """The name of the rule."""
        return "_".join([self.stage.name, *self.fixed.values()])

    @property
    def pattern(self) -> Key:
        """The key of the rule, with ``{name}`` for each open wildcard."""
        return {name: self.fixed.get(name, f"{{{name}}}") for name in self.stage.level.wildcards}

    @property
    def outputs(self) -> Files:
        """The patterns of the output files, by name."""
        return self.stage.outputs(self.plan, self.pattern)

    @property
    def log(self) -> str:
        """The pattern of the log file."""
        parts = [f"seed{value}" if name == "seed" else value for name, value in self.pattern.items()]
        return f"{self.plan.paths.logs}/{'/'.join([self.stage.name, '-'.join(parts)]).rstrip('/')}.log"

    def job(self, wildcards: Any) -> PlannedJob:
        """Return the job for these wildcards."""
        return self._jobs[tuple(str(wildcards[name]) for name in self._open)]

    def threads(self, wildcards: Any) -> int:
        """Return the number of processes that share the work."""
        return self.job(wildcards).threads

    def arguments(self, wildcards: Any, output: Any, threads: int) -> str:
        """Return the arguments of the command; Snakemake does not record a param that depends on the output."""
        return self.job(wildcards).arguments(threads)

    @property
    def _open(self) -> list[str]:
        return [name for name in self.stage.level.wildcards if name not in self.fixed]

    @cached_property
    def _jobs(self) -> dict[tuple[str, ...], PlannedJob]:
        jobs = (job for job in self.plan.jobs(self.stage) if self.fixed.items() <= job.key.items())
        return {tuple(job.key[name] for name in self._open): job for job in jobs}


def rules(plan: Plan, *levels: Level) -> Iterator[Rule]:
    """Yield the rules of all stages of these levels with a job."""
    for stage in (*STAGES, *PAGES):
        if stage.level in levels:
            values = dict.fromkeys(tuple(key[name] for name in stage.level.by_rule) for key in stage.keys(plan))
            for fixed in values:
                yield Rule(plan, stage, dict(zip(stage.level.by_rule, fixed, strict=True)))
