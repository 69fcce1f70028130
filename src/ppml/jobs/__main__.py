"""The program of every job: ``python -m ppml.jobs STAGE --options``."""

from __future__ import annotations

import sys

from ppml.ipc.parent_watch import exit_with_workflow
from ppml.jobs.stage_names import is_stage, stage_names


def main() -> None:
    """Submit the job to the fork server; without a server, run it in this process."""
    stage, *arguments = sys.argv[1:] or [""]
    if not is_stage(stage):
        print(f"error: unknown stage {stage!r}; allowed: {', '.join(stage_names())}", file=sys.stderr)
        sys.exit(2)
    exit_with_workflow()
    from ppml.jobs.fork_client import exit_like, submit

    status = submit(stage, arguments)
    if status is not None:
        exit_like(status)
    # Only here: with a server, the job starts without the imports of its stage.
    from ppml.jobs.runner import run_stage

    run_stage(stage, arguments)


if __name__ == "__main__":
    main()
