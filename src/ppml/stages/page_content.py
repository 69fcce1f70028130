"""The content of the HTML report and of the PDF, from the files of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ppml.jobs.job import Job
from ppml.reporting.experiment_view import read_tidy
from ppml.reporting.report_content import Figure, Overview, Page, caption_of, facts_of, overview_of
from ppml.reporting.shown_table import read_html


def overview(job: Job) -> Overview:
    """Return the first page."""
    records, costs, inferences = (read_tidy(name, job.inputs[name]) for name in ("records", "costs", "inferences"))
    return overview_of(job.spec, records, costs, inferences)


def pages(job: Job, sources: Mapping[str, str]) -> list[Page]:
    """Return the pages of the experiments; ``sources`` has the address of each picture."""
    records = read_tidy("records", job.inputs["records"])
    return [_page(job, one, sources, records) for one in job.spec["experiments"]]


def _page(job: Job, one: Mapping[str, Any], sources: Mapping[str, str], records: pd.DataFrame) -> Page:
    name, fallback = one["name"], job.spec["fallback"]

    def caption(kind: str) -> str:
        return caption_of(job.inputs[f"caption {kind}"].read_text(encoding="utf-8"), one["title"], fallback)

    return Page(
        name,
        one["title"],
        [Figure(kind.replace("_", " "), sources[f"{name} {kind}"], caption(kind)) for kind in one["figures"]],
        [
            (read_html(job.inputs[f"table {name} {kind}"].read_text(encoding="utf-8")), caption(kind))
            for kind in one["tables"]
        ],
        facts_of(one["arms"], records, job.notes),
    )


def facts(job: Job) -> dict[str, str]:
    """Return the provenance of all results, by heading."""
    return facts_of([*job.spec["labels"]], read_tidy("records", job.inputs["records"]), job.notes)


def about(job: Job) -> list[str]:
    """Return the paragraphs with advice for readers."""
    text = job.inputs["introduction"].read_text(encoding="utf-8")
    # The advice about fallback data stands beside the title, if it applies.
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip() and "FALLBACK" not in part]


def title(first: Overview) -> str:
    """Return the title of the report."""
    return f"Privacy-preserving machine learning on {', '.join(first.datasets)}"
