"""``python -m ppml.jobs NAME --options``: the start of every job; the fork server has imported the slow modules."""

from __future__ import annotations

import sys

from ppml.ipc.parent_watch import exit_with_workflow
from ppml.jobs.runner import run_stage, stage_names


def main() -> None:
    """Submit the job to the fork server, or run it in this process without one."""
    stage, *arguments = sys.argv[1:] or [""]
    if stage not in (names := stage_names()):
        print(f"error: unknown stage {stage!r}; allowed: {', '.join(names)}", file=sys.stderr)
        sys.exit(2)
    exit_with_workflow()
    from ppml.jobs.fork_client import exit_like, submit

    status = submit(stage, arguments)
    if status is not None:
        exit_like(status)
    run_stage(stage, arguments)


if __name__ == "__main__":
    main()
