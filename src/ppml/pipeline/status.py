"""Print of every result whether it is up to date, and if not, the reason; no job runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppml.config.load import read_layers
from ppml.errors import UserError
from ppml.pipeline.job_status import JobRecords, JobStatus, plan_jobs
from ppml.pipeline.plan import Plan
from ppml.pipeline.project import DEFAULT_CONFIG
from ppml.pipeline.renamed_runs import renamed_runs
from ppml.pipeline.run_lock import RunLock
from ppml.pipeline.tracked_jobs import tracked_jobs
from ppml.system_errors import describe_os_error


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for each result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", nargs="+", default=[DEFAULT_CONFIG])
    arguments = parser.parse_args(argv)
    lock = RunLock()
    try:
        plan = read_plan(arguments.configfile)
        # Held, so that no run starts meanwhile.
        if not lock.take():
            print(f"warning: {lock.warning()}", file=sys.stderr)
        records = job_records(plan)
        jobs = plan_jobs(records)
        records.digests.save()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {describe_os_error(error)}")
    for line in (f"warning: {records.book.problem}" * bool(records.book.problem), *plan.notices()):
        if line:
            print(line, file=sys.stderr)
    taken_over = {path: run.source for run in renamed_runs(records) for path in run.records}
    for line in describe(jobs, taken_over):
        print(line)


def read_plan(configfiles: Sequence[str]) -> Plan:
    """Return the plan of configuration files, or raise a :class:`UserError`."""
    for file in configfiles:
        read_layers(file)
    return Plan.check({}, list(configfiles))


def job_records(plan: Plan) -> JobRecords:
    """Return the records of the jobs of a plan."""
    jobs = tracked_jobs(plan)
    plan.digests.save()
    book = Path(plan.paths.reports) / "provenance.json"
    return JobRecords(jobs, book, published=plan.redistributable, code=plan.digests.made)


def describe(jobs: Sequence[JobStatus], taken_over: dict[str, str]) -> Iterator[str]:
    """Yield a line for every result, and the number of jobs that have to run.

    Parameters
    ----------
    jobs : sequence of JobStatus
        All jobs.
    taken_over : dict
        Output -> folder of another name that a run copies it from.
    """
    results: dict[str, list[JobStatus]] = {}
    for status in jobs:
        results.setdefault(status.job.result, []).append(status)
    width = max(map(len, results), default=0)
    for result, parts in results.items():
        yield f"{result:<{width}}  {_state(result, parts, taken_over)}"
    current = sum(not any(status.runs for status in parts) for parts in results.values())
    waiting = sum(status.runs for status in jobs)
    yield f"{current} of {len(results)} results are up to date" + (
        f"; `make results` runs {waiting} of {len(jobs)} jobs" if waiting else ""
    )


def _state(result: str, jobs: Sequence[JobStatus], taken_over: dict[str, str]) -> str:
    causes: dict[str, list[str]] = {}
    for status in jobs:
        source = taken_over.get(status.job.outputs[0])
        for cause in [f"a run takes it over from {source}"] if source else status.causes:
            causes.setdefault(cause, []).append(f"{status.job.rule} {status.job.wildcards.get('seed', '')}".strip())
    follows = sorted({name for status in jobs for name in status.follows} - {result})
    if not causes and not follows:
        return "up to date"
    parts = [f"{cause} ({_shorten(names)})" for cause, names in causes.items()]
    parts += [f"follows {_shorten(follows)}"] if follows else []
    return "stale: " + "; ".join(parts)


def _shorten(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def unfinished(configfiles: Sequence[str]) -> list[str]:
    """Return a line for every file that is missing or stale."""
    return [
        f"{output}: {'; '.join(status.causes) or 'made from stale results: ' + _shorten(status.follows)}"
        for status in plan_jobs(job_records(read_plan(configfiles)))
        if status.runs
        for output in status.job.outputs
    ]


def save_book(configfiles: Sequence[str]) -> None:
    """Write the record book of the results in the folder."""
    job_records(read_plan(configfiles)).save_book()


if __name__ == "__main__":
    main()
