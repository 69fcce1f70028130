"""A job of the small workflow: ``python -m tests.workflow.small_job OUTPUT... COMMAND`` records a command."""

from __future__ import annotations

import subprocess
import sys

from ppml.jobs.record import record_job


def main() -> None:
    """Run the command and record its outputs."""
    *outputs, command = sys.argv[1:]
    with record_job(outputs[-1], []):
        subprocess.run(command, shell=True, check=True)


if __name__ == "__main__":
    main()
