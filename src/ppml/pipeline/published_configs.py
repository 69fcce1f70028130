"""The configurations whose results are published."""

from __future__ import annotations

from pathlib import Path

from ppml.pipeline.project import ROOT, project_file

NAMES = ("default", "best", "clients", "inference")


def published_configurations() -> list[str]:
    """Return the files of the published configurations, the default configuration first."""
    return [project_file(f"config/{name}.yaml") for name in NAMES if Path(ROOT, f"config/{name}.yaml").is_file()]
