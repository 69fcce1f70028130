"""The inputs of rules, with marks by which Snakemake runs the jobs of :func:`ppml.pipeline.job_status.plan_jobs`.

Snakemake compares the times of inputs and outputs. An input whose job does not run is therefore ``ancient``, and a job
that has to run reads one more file, which is newer than all others. No file in the folder changes, so that a dry run
shows the jobs of a run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from snakemake.io import ancient

from ppml.errors import UserError
from ppml.io.atomic import atomic_write
from ppml.jobs.record import write_descriptions
from ppml.jobs.runner import exit_on_error
from ppml.pipeline.equal_runs import (
    EqualRun,
    copied_files,
    copy_equal_run,
    describe_copies,
    find_equal_runs,
    remove_leftovers,
)
from ppml.pipeline.forecast import forecast
from ppml.pipeline.job_status import CHECKPOINTS, FORCED, JobRecords, JobStatus, plan_jobs, select_needed
from ppml.pipeline.rules import Rule
from ppml.pipeline.stages import Files
from ppml.pipeline.tracked_jobs import TrackedJob
from ppml.project import project_file


class UnmarkedInputs:
    """The input functions of rules in the process of a single job, perhaps on another machine: its job runs."""

    def of(self, rule: Rule) -> Callable[[Any], dict[str, Any]]:
        """Return the input function of a rule."""
        return lambda wildcards: {**rule.job(wildcards).inputs, "stale": []}

    def targets(self, paths: Sequence[str]) -> list[str]:
        """Return the inputs of the rule for all results."""
        return [*paths]


class RuleInputs:
    """The input functions of rules in the process that plans all jobs.

    Snakemake calls them after it has read its options. At the first call, a real run copies equal runs and writes the
    descriptions of its jobs.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow
        The workflow of the Snakefile.
    checkpoints : snakemake.checkpoints.Checkpoints
        The checkpoints of the Snakefile.
    records : JobRecords
        All jobs and their records.
    start : callable
        The first step of a real run; it raises a :class:`UserError` if the run must not start.
    check : callable
        The check before the first job; it raises a :class:`UserError` if no job may run.
    """

    def __init__(
        self,
        workflow: Any,
        checkpoints: Any,
        records: JobRecords,
        start: Callable[[], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._workflow = workflow
        self._checkpoints = checkpoints
        self._records = records
        self._start = start
        self._check = check
        self._status: dict[str, JobStatus] = {}
        self._newest: Any = None
        self._real = False

    def of(self, rule: Rule) -> Callable[[Any], dict[str, Any]]:
        """Return the input function of a rule; ``stale`` holds the newest file if the job has to run."""

        def inputs(wildcards: Any) -> dict[str, Any]:
            job = rule.job(wildcards)
            return self.mark_inputs(job.output_files()[0], job.inputs)

        return inputs

    def mark_inputs(self, output: str, inputs: Files) -> dict[str, Any]:
        """Return the inputs of the job of ``output`` with marks, and ``stale``.

        If the checkpoint of its run runs first, Snakemake plans the job again after it.
        """
        self._require_plan()
        # The first page of the report has no record.
        job = self._records.makers.get(output)
        reasons: Sequence[str] = self._status[job.outputs[0]].reasons if job else ()
        if job and self._real and self._status[job.outputs[0]].certain:
            with exit_on_error():
                _require_unprotected(job)
        checkpoint = self._running_checkpoint(job) if job else None
        if job and checkpoint:
            # Raises an exception of Snakemake until the checkpoint has ended.
            getattr(self._checkpoints, checkpoint.rule).get(**checkpoint.wildcards)
            self._records.reload()
            reasons = [*self._records.reasons(job), *(reason for reason in reasons if reason == FORCED)]

        def mark(paths: str | Sequence[str]) -> Any:
            if not isinstance(paths, str):
                return [mark(path) for path in paths]
            maker = self._records.makers.get(paths)
            changes = bool(reasons) if maker is checkpoint else self._may_change(maker, after=checkpoint)
            return paths if maker and changes else ancient(paths)

        return {
            **{name: mark(paths) for name, paths in inputs.items()},
            "stale": [self._newest.name] if reasons else [],
        }

    def _may_change(self, maker: TrackedJob | None, *, after: TrackedJob | None) -> bool:
        """Return whether the job that makes an input runs; ``after`` is a checkpoint that has ended."""
        if maker is None or not (status := self._status[maker.outputs[0]]).runs:
            return False
        if after is None or status.certain:
            return True
        return self._records.is_missing(maker) or bool(self._records.reasons(maker))

    def _running_checkpoint(self, job: TrackedJob) -> TrackedJob | None:
        """Return the checkpoint that a job depends on, None if it does not run."""
        if not job.follows_checkpoint:
            return None
        jobs = (one for one in self._checkpoint_jobs if one.wildcards == job.wildcards)
        return next((one for one in jobs if self._status[one.outputs[0]].runs), None)

    @cached_property
    def _checkpoint_jobs(self) -> list[TrackedJob]:
        return [job for job in self._records.jobs if job.rule in CHECKPOINTS]

    def targets(self, paths: Sequence[str]) -> list[str]:
        """Return the inputs of the rule for all results; without a stale result, only a file that no rule makes.

        Snakemake then ends without a graph of all jobs, which takes most of the time. Commands that show the graph
        (``--summary``, ``--report``) get all paths.
        """
        self._require_plan()
        idle = self._status and not any(status.runs for status in self._status.values())
        if idle and self._workflow.execution_settings is not None:
            return [project_file("Snakefile")]
        return [*paths]

    def _require_plan(self) -> None:
        if not self._status:
            with exit_on_error():
                self._plan()

    def _plan(self) -> None:
        workflow = self._workflow
        if workflow.touch:
            raise UserError("--touch is refused: content decides, never a time; to repeat a job: --forcerun")
        real = workflow.execution_settings is not None and not workflow.dryrun
        if real:
            self._start()
            remove_leftovers(self._records.makers)
        copies = self._equal_runs() if real or workflow.dryrun else []
        if real:
            copies = [run for run in copies if copy_equal_run(run, self._records)]
        if line := describe_copies(copies):
            print(line, file=sys.stderr, flush=True)
        jobs = plan_jobs(self._records, self._is_forced)
        self._records.digests.save()
        self._status = {status.job.outputs[0]: status for status in jobs}
        running = [status for status in jobs if status.runs]
        if workflow.execution_settings is not None:
            # A dry run copies nothing.
            copied = copied_files(copies)
            self._print_forecast([status for status in jobs if status.job.outputs[0] not in copied])
        self._real = real
        if real and running:
            # Here, and not in a hook of Snakemake, which an option turns off.
            self._check()
            write_descriptions(status.job for status in running)
            _replace_links(running)
            _align_times(running)
        self._newest = _create_newest_file(running)

    def _equal_runs(self) -> list[EqualRun]:
        """Return the equal runs that the targets need."""
        runs, targets = find_equal_runs(self._records), self._workflow.dag_settings.targets
        if not runs or not targets:
            return runs
        needed = select_needed(plan_jobs(self._records, self._is_forced), targets)
        outputs = {path for status in needed for path in status.job.outputs}
        return [run for run in runs if not outputs.isdisjoint(run.files)]

    def _print_forecast(self, jobs: Sequence[JobStatus]) -> None:
        if needed := [status.job for status in select_needed(jobs, self._workflow.dag_settings.targets)]:
            resources = self._workflow.resource_settings
            text = forecast(self._records, needed).text(resources.cores or resources.nodes or 1)
            print(f"expected: {text}", file=sys.stderr, flush=True)

    def reason(self, output: str) -> str:
        """Return the reason why the job of an output runs, empty for an output without a record."""
        job = self._records.makers.get(output)
        return self._status[job.outputs[0]].reason if job and self._status else ""

    def _is_forced(self, job: TrackedJob) -> bool:
        settings = self._workflow.dag_settings
        asked = set(settings.forcerun) | (set(settings.targets) if settings.forcetargets else set())
        return bool(settings.forceall or job.rule in asked or asked & set(job.outputs))


def _create_newest_file(running: list[JobStatus]) -> Any:
    """Return a temporary file that is newer than all outputs of some jobs; this process removes it.

    The file is as old as possible: Snakemake reports an error if an output is older than an input after its job, and
    the clock of a cluster's node may be slow.
    """
    file = tempfile.NamedTemporaryFile(prefix="newer-than-results-")  # noqa: SIM115 (until this process ends)
    # Other bytes each time: where Snakemake compares content, it is a changed file.
    file.write(os.urandom(16))
    file.flush()
    times = [Path(path).stat().st_mtime_ns for path in _files(running)]
    newest = max((moment for moment in times if moment < time.time_ns()), default=0) + 1000
    os.utime(file.name, ns=(newest, newest))
    return file


def _files(jobs: Iterable[JobStatus]) -> list[str]:
    return [path for status in jobs for path in status.job.outputs if Path(path).is_file()]


def _align_times(running: list[JobStatus]) -> None:
    """Set the times of outputs so that only a changed input is newer than the output of a job."""
    now = time.time_ns()
    for path in _files(running):
        if Path(path).stat().st_mtime_ns >= now:
            # A wrong clock has set it.
            os.utime(path, ns=(0, 0))
    uncertain = _files(status for status in running if not status.certain)
    oldest = min((Path(path).stat().st_mtime_ns for path in uncertain), default=0)
    for path in uncertain:
        os.utime(path, ns=(oldest, oldest))


def _replace_links(running: list[JobStatus]) -> None:
    """Replace links by copies among the outputs of running jobs.

    DVC can link outputs to protected files of its cache; Snakemake refuses to run a job with a protected output.
    """
    for path in map(Path, _files(running)):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_nlink > 1:
            modified = path.stat().st_mtime_ns
            with atomic_write(path) as copy:
                shutil.copyfile(path, copy)
            os.utime(path, ns=(modified, modified))


def _require_unprotected(job: TrackedJob) -> None:
    """Raise an error if an output of a running job is write-protected by its owner; the superuser could write it."""
    for path in map(Path, job.outputs):
        if path.is_file() and not path.stat().st_mode & stat.S_IWUSR:
            raise UserError(
                f"{path} is stale and write-protected; to allow a new one: chmod u+w {shlex.quote(str(path))}, "
                "or after DVC: .venv/bin/dvc unprotect data artifacts"
            )
