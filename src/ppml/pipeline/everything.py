"""Make the results of every published configuration, one after another; first print jobs, hours and gigabytes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ppml.errors import UserError
from ppml.jobs.runner import run
from ppml.pipeline.equal_runs import copied_files, find_equal_runs
from ppml.pipeline.forecast import Forecast, forecast
from ppml.pipeline.job_status import plan_jobs
from ppml.pipeline.published_configs import published_configurations
from ppml.pipeline.snakemake_process import add_cores, call_snakemake
from ppml.pipeline.status import job_records, jobs_to_run, read_plan
from ppml.project import ROOT, project_file


def main(argv: Sequence[str] | None = None) -> None:
    """Print the forecast of each configuration, and run those with a stale result."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_cores(parser)
    parser.add_argument("-n", "--dry-run", action="store_true", help="run nothing")
    arguments = parser.parse_args(argv)
    total, stale = Forecast(), []
    for file in map(project_file, published_configurations(ROOT)):
        expected = expect(file)
        print(f"{file}: {expected.text(arguments.cores)}", flush=True)
        stale += [file] * bool(expected.jobs)
        total += expected
    print(f"everything: {total.text(arguments.cores)}", flush=True)
    failed = [] if arguments.dry_run else [file for file in stale if make(file, arguments.cores)]
    if failed:
        raise UserError(f"not all results exist: {', '.join(failed)}")


def expect(file: str) -> Forecast:
    """Return the forecast of the stale jobs of a configuration."""
    records = job_records(read_plan([file]))
    return forecast(records, jobs_to_run(plan_jobs(records), copied_files(find_equal_runs(records))))


def make(file: str, cores: int) -> int:
    """Make the results of a configuration, and return the exit status."""
    print(f"{file}:", flush=True)
    return call_snakemake([file], cores)


if __name__ == "__main__":
    run(main)
