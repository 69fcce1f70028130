"""The provenance of a report: configuration, commit of the code, commit of the results, date and machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ppml.errors import UserError
from ppml.pipeline.git import GitError, ask_git, changed_files
from ppml.project import ROOT

ENV_DATE = "SOURCE_DATE_EPOCH"
"""The environment variable with the date of a report that is made again, in seconds."""


def provenance(files: Sequence[str], results: str) -> dict[str, str]:
    """Return the provenance of a report, by heading.

    Parameters
    ----------
    files : sequence of str
        The files of the configuration.
    results : str
        The tidy file of all runs.
    """
    given = os.environ.get(ENV_DATE)
    try:
        moment = datetime.fromtimestamp(float(given), UTC) if given else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise UserError(f"{ENV_DATE}: got {given!r:.40}; allowed: seconds since 1970") from None
    cores = os.cpu_count() or 1
    return {
        "configuration": ", ".join(files),
        "code": _last_commit(ROOT, "src", "workflow"),
        "results": _last_commit(Path(results).parent, Path(results).name),
        "date": f"{moment:%Y-%m-%d %H:%M} UTC",
        # Without the name of the machine, which is private.
        "machine": f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}",
    }


def _last_commit(folder: Path, *paths: str) -> str:
    """Return the last commit of files in ``folder`` with its date, and whether they differ from it."""
    try:
        commit = ask_git(folder, "log", "-1", "--format=commit %h of %cs", "--", *paths).strip()
        changed = changed_files(folder, *paths)
    except GitError as error:
        return f"commit not known: {error}"
    if not commit:
        return "not in git"
    return f"{commit}, changed since then" if changed else commit
