"""The report of a project in folders with odd names."""

from __future__ import annotations

from tests.workflow.project import Project
from tests.workflow.test_paths import CONFIG, folders_in, odd

__all__ = ["odd"]


def test_report_is_written_in_odd_folders(odd: Project) -> None:
    odd.call("-m", "ppml.pipeline.html_report", "--configfile", CONFIG)
    text = (folders_in(odd.folder)["reports"] / "report.html").read_text(encoding="utf-8")
    assert 'id="experiment-every"' in text and "data:image/svg+xml" in text
    odd.call("-m", "ppml.pipeline.html_report", "--format", "workflow", "--configfile", CONFIG)
    text = (folders_in(odd.folder)["reports"] / "workflow.html").read_text(encoding="utf-8")
    assert "<html" in text and "every-epsilon" in text
    odd.call("-m", "ppml.pipeline.html_report", "--format", "pdf", "--configfile", CONFIG)
    assert (folders_in(odd.folder)["reports"] / "report.pdf").read_bytes().startswith(b"%PDF-")
