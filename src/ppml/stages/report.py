"""Stage report: all results as one HTML file for readers, which opens without a network."""

from __future__ import annotations

from ppml.io.atomic import write_text
from ppml.jobs.job import Job
from ppml.reporting.report_page import choose_formats, picture, render
from ppml.stages.page_content import about, facts, overview, pages, title


def run(job: Job) -> None:
    """Write the page."""
    names = [name.partition(" ")[2] for name in job.inputs if name.startswith("svg ")]
    sizes = {name: {kind: job.inputs[f"{kind} {name}"].stat().st_size for kind in ("svg", "png")} for name in names}
    chosen = choose_formats(sizes)
    sources = {name: picture(kind, job.inputs[f"{kind} {name}"].read_bytes()) for name, kind in chosen.items()}
    files = {name: job.inputs[name].read_text(encoding="utf-8") for name in ("html", "css", "js")}
    first = overview(job)
    text = render(files, title(first), first, pages(job, sources), facts(job), about(job), job.spec["fallback"])
    write_text(job.outputs["page"], text)
