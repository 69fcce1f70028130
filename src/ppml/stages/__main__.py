"""``python -m ppml.stages NAME --options``: how every job starts; what takes long to import, the warm server has."""

from __future__ import annotations

import sys

from ppml.stages.runner import run_stage
from ppml.start.needs import NEEDS
from ppml.start.parent import die_with_parent


def main() -> None:
    """Hand the stage over to the warm server, or run it in this process where there is none."""
    stage, *arguments = sys.argv[1:] or [""]
    if stage not in NEEDS:
        print(f"error: unknown stage {stage!r}; allowed: {', '.join(NEEDS)}", file=sys.stderr)
        sys.exit(2)
    die_with_parent()
    from ppml.start.client import end_as, hand_over

    status = hand_over(stage, arguments)
    if status is not None:
        end_as(status)
    run_stage(stage, arguments)


if __name__ == "__main__":
    main()
