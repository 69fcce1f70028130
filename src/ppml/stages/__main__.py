"""``python -m ppml.stages NAME --options``: how every job starts; what takes long to import, the warm server has."""

from __future__ import annotations

import sys

from ppml.forkserver.preload import NEEDS
from ppml.ipc.parent_watch import die_with_parent
from ppml.stages.runner import run_stage


def main() -> None:
    """Hand the stage over to the warm server, or run it in this process where there is none."""
    stage, *arguments = sys.argv[1:] or [""]
    if stage not in NEEDS:
        print(f"error: unknown stage {stage!r}; allowed: {', '.join(NEEDS)}", file=sys.stderr)
        sys.exit(2)
    die_with_parent()
    from ppml.forkserver.job_client import end_as, hand_over

    status = hand_over(stage, arguments)
    if status is not None:
        end_as(status)
    run_stage(stage, arguments)


if __name__ == "__main__":
    main()
