"""The one undocumented name of Snakemake that the workflow uses: the timers of its limit on jobs per second."""

from __future__ import annotations

from typing import Any

TESTED_WITH = "9.27.1"
"""The version of Snakemake that has this name."""


def remove_job_rate_limit(workflow: Any) -> None:
    """Start jobs without a limit per second.

    Snakemake starts at most 100 jobs a second. For that limit, each round of its scheduler starts a timer of a second,
    which starts another round: after n jobs, n rounds a second take time of the jobs. No option turns this off, and
    with a longer period Snakemake waits for the last timer before it exits.
    """
    workflow.scheduler.job_rate_limiter = None
