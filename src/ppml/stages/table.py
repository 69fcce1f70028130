"""Stage table: one table of an experiment as Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

from ppml.jobs.job import Job
from ppml.reporting.registry import tables
from ppml.reporting.writers import to_csv, to_html, to_latex, to_markdown
from ppml.stages.report_job import build, write

FORMATS = {"md": to_markdown, "csv": to_csv, "tex": to_latex, "html": to_html}


def run(job: Job) -> None:
    """Read the tidy files of the kind and write the table."""
    write(job, build(tables()[job.spec["kind"]], job), FORMATS)
