"""Write all results for readers: one HTML file that opens without a network, a PDF, or Snakemake's report."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ppml.errors import UserError
from ppml.jobs.runner import run
from ppml.pipeline.plan import Plan
from ppml.project import DEFAULT_CONFIG, project_file

STYLE = project_file("workflow/report/report.css")
FORMATS = ("html", "pdf", "workflow")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report into the reports folder of the configuration, and print its path and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", default=DEFAULT_CONFIG)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="html",
        help="html: report.html for readers; pdf: report.pdf, the same tables and figures on pages; workflow: "
        "workflow.html, the report of Snakemake with the graph of all jobs",
    )
    arguments = parser.parse_args(argv)
    plan = Plan.check({}, [arguments.configfile])
    # No record covers a page for readers, so it is made anew each time, at once.
    if arguments.format == "workflow":
        target = Path(plan.paths.reports) / "workflow.html"
        commands = [
            [plan.paths.overview, "--cores", "1", "--forcerun", "overview"],
            ["--report", str(target), "--report-stylesheet", STYLE],
        ]
    else:
        target = Path(plan.paths.page(arguments.format))
        rule = "report" if arguments.format == "html" else "pdf"
        commands = [[str(target), "--cores", "1", "--forcerun", rule]]
    for command in commands:
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", project_file("Snakefile"), *command]
        done = subprocess.run(
            [*snakemake, "--configfile", arguments.configfile], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UserError(f"the report was not written:\n{done.stdout}{done.stderr}")
    print(f"report: {target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run(main)
