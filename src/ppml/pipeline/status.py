"""Print the state of every result, with reasons for stale results; no job runs."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ppml.config.suggestions import shorten
from ppml.jobs.runner import run
from ppml.pipeline.equal_runs import copied_files, find_equal_runs
from ppml.pipeline.forecast import forecast
from ppml.pipeline.job_status import MOST_REASONS, JobRecords, JobStatus, plan_jobs
from ppml.pipeline.plan import Plan
from ppml.pipeline.snakemake_process import add_cores
from ppml.pipeline.tracked_jobs import TrackedJob, track_jobs
from ppml.pipeline.workflow_lock import WorkflowLock
from ppml.project import DEFAULT_CONFIG


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for each result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", nargs="+", default=[DEFAULT_CONFIG])
    add_cores(parser)
    arguments = parser.parse_args(argv)
    plan = read_plan(arguments.configfile)
    # The lock keeps runs from starting.
    lock = WorkflowLock()
    if not lock.take():
        print(f"warning: {lock.warning()}", file=sys.stderr)
    records = job_records(plan)
    jobs = plan_jobs(records)
    copied = copied_files(find_equal_runs(records))
    records.digests.save()
    for line in (f"warning: {records.book.problem}" * bool(records.book.problem), *plan.notices()):
        if line:
            print(line, file=sys.stderr)
    files = arguments.configfile
    command = "make results" if files == [DEFAULT_CONFIG] else f"make results CONFIG={shlex.quote(files[0])}"
    if len(files) > 1:
        command = f"snakemake --cores all --configfile {shlex.join(files)}"
    for line in describe(jobs, copied, command):
        print(line)
    if running := jobs_to_run(jobs, copied):
        print(f"expected: {forecast(records, running).text(arguments.cores)}")


def read_plan(configfiles: Sequence[str]) -> Plan:
    """Return the plan of configuration files, or raise a :class:`UserError`."""
    return Plan.check({}, list(configfiles))


def job_records(plan: Plan) -> JobRecords:
    """Return the records of the jobs of a plan."""
    jobs = track_jobs(plan)
    plan.digests.save()
    book = Path(plan.paths.reports) / "provenance.json"
    return JobRecords(jobs, book, public=plan.public, code=plan.digests.by_text)


def jobs_to_run(jobs: Sequence[JobStatus], copied: Mapping[str, str]) -> list[TrackedJob]:
    """Return the stale jobs whose outputs are not copied."""
    return [status.job for status in jobs if status.runs and status.job.outputs[0] not in copied]


def describe(jobs: Sequence[JobStatus], copied: Mapping[str, str], command: str) -> Iterator[str]:
    """Yield a line for every result, and the number of stale jobs.

    Parameters
    ----------
    jobs : sequence of JobStatus
        All jobs.
    copied : mapping
        Output -> file of an equal run that the next run copies.
    command : str
        The command that makes the results.
    """
    results: dict[str, list[JobStatus]] = {}
    for status in jobs:
        results.setdefault(status.job.result, []).append(status)
    width = max(map(len, results), default=0)
    for result, parts in results.items():
        yield f"{result:<{width}}  {_state(result, parts, copied, command)}"
    current = sum(not any(status.runs for status in parts) for parts in results.values())
    stale = len(jobs_to_run(jobs, copied))
    remedy = f"; `{command}` runs {stale} of {len(jobs)} jobs" if stale else ""
    yield f"{current} of {len(results)} results are up to date{remedy}"


def _state(result: str, jobs: Sequence[JobStatus], copied: Mapping[str, str], command: str) -> str:
    reasons: dict[str, list[str]] = {}
    for status in jobs:
        source = copied.get(status.job.outputs[0])
        for reason in [f"`{command}` copies it from {Path(source).parent}"] if source else status.reasons:
            reasons.setdefault(reason, []).append(f"{status.job.rule} {status.job.wildcards.get('seed', '')}".strip())
    follows = sorted({name for status in jobs for name in status.follows} - {result})
    if not reasons and not follows:
        return "up to date"
    parts = [f"{reason} ({shorten(names)})" for reason, names in reasons.items()]
    shown = [shorten(parts, MOST_REASONS, "; ")] if parts else []
    return "stale: " + "; ".join([*shown, f"follows {shorten(follows)}"] if follows else shown)


def unfinished(records: JobRecords) -> list[str]:
    """Return a line for every file that is missing or stale."""
    return [
        f"{output}: {status.reason}" for status in plan_jobs(records) if status.runs for output in status.job.outputs
    ]


if __name__ == "__main__":
    run(main)
