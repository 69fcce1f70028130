"""The only undocumented name of Snakemake in the workflow: its limit on jobs per second."""

from __future__ import annotations

from typing import Any

TESTED_WITH = "9.27.1"
"""The version of Snakemake that has this name."""


def remove_job_rate_limit(workflow: Any) -> None:
    """Start jobs without a limit per second.

    Snakemake starts at most 100 jobs per second. For this limit, each round of its scheduler starts a timer of one
    second, which starts another round: after n jobs, n rounds per second slow the jobs down. No option disables the
    limit, and with a longer period Snakemake waits for the last timer before it exits.
    """
    workflow.scheduler.job_rate_limiter = None
