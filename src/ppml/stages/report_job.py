"""The content of a table or figure, from the tidy files that its kind reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ppml.io.atomic import write_bytes
from ppml.jobs.job import Job
from ppml.reporting.experiment_view import ExperimentView, read_tidy
from ppml.reporting.literature import parse_published
from ppml.reporting.registry import Kind


def build(kind: Kind, job: Job) -> Any:
    """Return the table or figure of a job. The specification holds kind, view and published.

    Raises
    ------
    UserError
        A file is not valid, or the experiment does not fit the kind.
    """
    content: dict[str, Any] = {name: read_tidy(name, job.inputs[name]) for name in kind.reads}
    if kind.published:
        content["published"] = parse_published(job.spec["published"])
    return kind.builder()(ExperimentView.model_validate(job.spec["view"]), **content)


def write(job: Job, content: Any, formats: Mapping[str, Callable[[Any], str | bytes]]) -> None:
    """Write ``content`` into each output file, in the format of its name."""
    for name, path in job.outputs.items():
        text = formats[name](content)
        write_bytes(path, text.encode() if isinstance(text, str) else text)
