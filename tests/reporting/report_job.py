"""A job of the stages report and pdf, on made-up results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ppml.jobs.job import Job
from ppml.reporting.registry import tables
from ppml.reporting.style import to_png, to_svg
from ppml.stages import table

from .made_up import Collected

FOLDER = Path(__file__).parents[2] / "workflow" / "report"
PROVENANCE = {
    "configuration": "config/made-up.yaml",
    "code": "commit 0123abc of 2026-01-02",
    "results": "commit 4567def of 2026-01-03",
    "date": "2026-01-04 05:06 UTC",
    "machine": "Linux x86_64, 2 cores, Python 3.11.2",
}


def report_job(
    collected: Collected, folder: Path, output: str, *, title: str = "Techniques", fallback: str = ""
) -> Job:
    """Write the tidy files, a table and a figure of two experiments, and return the job."""
    made = table.FORMATS, {}
    summary = collected.job(tables()["summary"], folder, *made)
    table.run(summary)
    collected.inferences.to_csv(folder / "inferences.csv", index=False)
    drawing = Figure(figsize=(4, 3))
    drawing.subplots().plot([1, 2], [3, 4])
    (folder / "figure.svg").write_bytes(to_svg(drawing))
    (folder / "figure.png").write_bytes(to_png(drawing))
    arms = [*collected.view.arms]
    experiments: list[dict[str, Any]] = [
        {"name": "all-arms", "title": title, "arms": arms, "tables": ["summary"], "figures": ["history"]},
        {"name": "few", "title": "Two arms", "arms": arms[:2], "tables": [], "figures": []},
    ]
    inputs = {
        **{name: folder / f"{name}.csv" for name in ("records", "costs", "inferences")},
        **{name: FOLDER / f"page.{name}" for name in ("html", "css", "js")},
        "introduction": FOLDER / "workflow.rst",
        **{f"caption {kind}": FOLDER / f"{kind}.rst" for kind in ("summary", "history")},
        "table all-arms summary": summary.outputs["html"],
        "svg all-arms history": folder / "figure.svg",
        "png all-arms history": folder / "figure.png",
    }
    spec = {"fallback": fallback, "labels": collected.view.arms, "experiments": experiments}
    return Job(spec, inputs, {"page": folder / output}, notes=PROVENANCE)
