"""The files of the project outside its package: the Snakefile, ``config/``, ``workflow/`` and the lock file."""

from __future__ import annotations

import os
from pathlib import Path

ENV_PROJECT = "PPML_PROJECT"
"""The environment variable with the folder of the Snakefile, which the Snakefile sets for its jobs."""


def _find_root() -> Path:
    """Return the folder of the Snakefile: of the running workflow, else of this checkout, else the current folder."""
    if folder := os.environ.get(ENV_PROJECT):
        return Path(folder)
    checkout = Path(__file__).absolute().parents[2]
    return checkout if (checkout / "Snakefile").is_file() else Path.cwd()


ROOT = _find_root()
"""The folder of the Snakefile."""


def project_file(name: str) -> str:
    """Return the path of a file of the project, relative if the project is the current folder."""
    return name if ROOT.samefile(Path.cwd()) else str(ROOT / name)


DEFAULT_CONFIG = project_file("config/default.yaml")
LITERATURE = project_file("config/published.yaml")
LOCK_FILE = ROOT / "requirements.lock"
