"""Stage overview: the first page of the HTML report, with every figure and its caption, in reStructuredText."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace

from ppml.io.atomic import write_text
from ppml.jobs.job import Job


def run(job: Job) -> None:
    """Write the page. The specification lists title, kind and fallback of each figure.

    The figures are embedded, so that the report is one file that opens without a network.
    """
    sections = [
        section(
            job.inputs[f"figure_{number}"], job.inputs[f"caption_{shown['kind']}"].read_text(encoding="utf-8"), shown
        )
        for number, shown in enumerate(job.spec)
    ]
    # The figures are between the first paragraph of the introduction and its advice for readers.
    summary, _, advice = job.inputs["introduction"].read_text(encoding="utf-8").partition("\n\n")
    write_text(job.outputs["overview"], "\n\n".join([summary, *sections, advice]))


def section(figure: Path, caption: str, shown: dict[str, str]) -> str:
    """Return one embedded figure with its caption, a template for title and fallback sentence."""
    from jinja2 import Template

    address = "data:image/svg+xml;base64," + base64.b64encode(figure.read_bytes()).decode()
    # Docutils refuses lines of more than 10,000 characters and joins those of an address.
    picture = "\n   ".join(address[start : start + 5_000] for start in range(0, len(address), 5_000))
    params = SimpleNamespace(title=shown["title"], fallback=shown["fallback"])
    text = Template(caption).render(snakemake=SimpleNamespace(params=params))
    return f".. image:: {picture}\n   :width: 100%\n\n{text}\n"
