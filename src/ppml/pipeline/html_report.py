"""Write the report of all results: one HTML file that opens without a network."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ppml.errors import UserError
from ppml.jobs.runner import run
from ppml.pipeline.plan import Plan
from ppml.pipeline.project import DEFAULT_CONFIG, project_file

STYLE = project_file("workflow/report/report.css")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report into the reports folder of the configuration, and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", default=DEFAULT_CONFIG)
    arguments = parser.parse_args(argv)
    plan = Plan.check({}, [arguments.configfile])
    target = Path(plan.paths.reports) / "report.html"
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", project_file("Snakefile")]
    # The first page holds every figure. No record covers it, so it is made anew each time, at once.
    for command in (
        [plan.paths.overview, "--cores", "1", "--forcerun", "overview"],
        ["--report", str(target), "--report-stylesheet", STYLE],
    ):
        done = subprocess.run(
            [*snakemake, *command, "--configfile", arguments.configfile],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(f"the report was not written:\n{done.stdout}{done.stderr}")
    print(f"report: {target}")


if __name__ == "__main__":
    run(main)
