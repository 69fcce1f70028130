"""The undocumented name of Snakemake exists in the pinned version; no module uses a private name."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version

import pytest
from snakemake.scheduling.job_scheduler import JobScheduler

from ppml.pipeline.scheduler_timers import TESTED_WITH
from tests.workflow.project import ROOT

SOURCES = [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk"), *(ROOT / "src/ppml/pipeline").glob("*.py")]
PRIVATE = re.compile(
    r"\b(workflow|checkpoints|job|rule|dag|persistence)\._\w+|from snakemake\S*\._|snakemake\.persistence"
)


def with_plain_names(text: str) -> str:
    """Return the text of a module with Snakemake's objects by their own names."""
    return text.replace("self._workflow", "workflow").replace("self._checkpoints", "checkpoints")


def test_pinned_snakemake_has_the_job_rate_limiter() -> None:
    assert version("snakemake") == TESTED_WITH
    source = inspect.getsource(JobScheduler)
    assert "self.job_rate_limiter = (" in source
    assert "if self.job_rate_limiter is not None:" in source


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_private_name_of_snakemake_is_used(path) -> None:  # type: ignore[no-untyped-def]
    text = path.read_text(encoding="utf-8")
    assert "snakemake" not in text.lower() or not PRIVATE.search(with_plain_names(text))
    if path.name != "scheduler_timers.py":
        assert "job_rate_limiter" not in text


def test_private_name_would_be_found() -> None:
    assert PRIVATE.search("workflow._prepare_dag()") and PRIVATE.search("from snakemake.persistence import x")
    assert PRIVATE.search(with_plain_names("self._workflow._prepare_dag()"))
    assert PRIVATE.search(with_plain_names("self._checkpoints._x"))
