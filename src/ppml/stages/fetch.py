"""Stage fetch: bring the published files of a data set into data/raw, and check them."""

from __future__ import annotations

from ppml.config.datasets import parse_dataset
from ppml.data.sources import fetch
from ppml.jobs.job import Job


def run(job: Job) -> None:
    """Fetch every output. The specification holds dataset and source, the notes hold mirrors and download."""
    files = {file.name: file for file in parse_dataset(job.spec["source"]).files}
    for output in job.outputs.values():
        file = files[output.name]
        mirrors, download = job.notes["mirrors"], job.notes["download"]
        source = fetch(file, job.spec["dataset"], output.parent, mirrors, download=download)
        print(f"{file.name}: {source}")
