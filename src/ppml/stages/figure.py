"""Stage figure: one figure of an experiment as SVG and PNG."""

from __future__ import annotations

import matplotlib

from ppml.jobs.job import Job
from ppml.reporting.registry import figures
from ppml.stages.report_job import build, write

# The backend is chosen before seaborn imports pyplot: a job has no display.
matplotlib.use("Agg")

from ppml.reporting.style import to_png, to_svg


def run(job: Job) -> None:
    """Read the tidy files of the kind and write the figure."""
    write(job, build(figures()[job.spec["kind"]], job), {"svg": to_svg, "png": to_png})
