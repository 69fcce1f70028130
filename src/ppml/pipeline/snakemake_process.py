"""The number of cores and the process of Snakemake, for commands that start it."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from ppml.errors import UserError
from ppml.project import project_file


def add_cores(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--cores``, as Snakemake has it."""
    parser.add_argument("--cores", type=_cores, default="all", help="the number of cores, or all")


def _cores(text: str) -> int:
    """Return a number of cores.

    Examples
    --------
    >>> _cores("2"), _cores("all") >= 1
    (2, True)
    """
    if text == "all":
        return os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: a number of at least 1, or all")
    return int(text)


def call_snakemake(configfiles: Sequence[str], cores: int, targets: Sequence[str] = ()) -> int:
    """Run Snakemake, and return its exit status.

    Raises
    ------
    UserError
        The user has interrupted it; it has ended by itself.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", project_file("Snakefile"), *targets]
    interruptions: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        # Ctrl-C reaches Snakemake, too, which ends its jobs. `subprocess.run` would kill it at once, and an exception
        # while the process starts would leave it alone.
        signal.signal(signal.SIGINT, lambda number, frame: interruptions.append(number))
    try:
        with subprocess.Popen([*command, "--cores", str(cores), "--configfile", *configfiles]) as process:
            status = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if interruptions:
        raise UserError("interrupted; finished jobs are kept: the same command does the rest")
    return status
