"""Stage pdf: all tables and figures as one PDF with vector figures."""

from __future__ import annotations

from ppml.io.atomic import write_bytes
from ppml.jobs.job import Job
from ppml.reporting.report_pdf import write_pdf
from ppml.stages.page_content import facts, overview, pages, title


def run(job: Job) -> None:
    """Write the document."""
    sources = {name.partition(" ")[2]: str(path) for name, path in job.inputs.items() if name.startswith("svg ")}
    first = overview(job)
    data = write_pdf(title(first), first, pages(job, sources), facts(job), job.notes["date"], job.spec["fallback"])
    write_bytes(job.outputs["page"], data)
