"""Overhead of the workflow beside the work of its jobs, compared with the same commands without a workflow.

``python benchmarks/workflow.py`` runs the smoke configuration in a temporary folder, one job at a time, in three ways:
by Snakemake like ``make results``, with a fresh process for each command, and all commands in one process, which is
the work itself. Then it measures a run with nothing to do: that one, or with ``--here CONFIGURATION`` the one in this
folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "config", "profiles", "src", "environment.yml", "requirements.lock")
MIRROR = ROOT.parent / "shared" / "datasets"
SMOKE = "config/smoke.yaml"
REPEATS = 5

COMMANDS = """
import json, sys
from ppml.pipeline.status import read_plan
jobs = read_plan([sys.argv[1]]).jobs()
print(json.dumps([f"exec python -m ppml.jobs {job.arguments(job.threads)} > /dev/null 2>&1" for job in jobs]))
"""
IN_ONE_PROCESS = """
import json, shlex, sys
from ppml.jobs.runner import run_stage
for command in json.load(sys.stdin):
    words = shlex.split(command)
    stage = words.index("ppml.jobs") + 1
    run_stage(words[stage], words[stage + 1 : words.index(">")])
"""


class Copy:
    """A copy of the project in a separate folder.

    Parameters
    ----------
    folder : Path
        An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            # The search path of the workflow's jobs.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(folder / "src"),
            "PPML_DATA_MIRROR": os.environ.get("PPML_DATA_MIRROR", str(MIRROR)),
        }
        for part in PARTS:
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / part)

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command in the folder and return its output."""
        return run(*command, folder=self.folder, environment=self._environment, stdin=stdin)

    def remove_results(self) -> None:
        """Remove all results but the raw data."""
        for part in ("build", "data/subsets"):
            for path in (self.folder / part).rglob("*"):
                if path.is_file():
                    path.unlink()


def run(*command: str, folder: Path, environment: dict[str, str] | None = None, stdin: str = "") -> str:
    """Run a command and return its output; exit if it fails."""
    done = subprocess.run(
        command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(command)[:200]}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def machine() -> str:
    """Return the processor and the versions of the measurement."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores, {cpus[0].partition(': ')[2]}, Python {platform.python_version()}"


def snakemake_command(configuration: str) -> list[str]:
    """Return the command that runs the workflow."""
    return [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", configuration]


def compare_runs(copy: Copy) -> None:
    """Print the time of all jobs, for each way to run them."""
    copy.run(*snakemake_command(SMOKE))
    commands = json.loads(copy.run(sys.executable, "-c", COMMANDS, SMOKE).splitlines()[-1])
    # The raw data exist already.
    commands = [command for command in commands if "ppml.jobs fetch " not in command]

    def one_by_one() -> None:
        for command in commands:
            copy.run("sh", "-c", command)

    ways: dict[str, Callable[[], object]] = {
        "all commands in one process": lambda: copy.run(
            sys.executable, "-c", IN_ONE_PROCESS, stdin=json.dumps(commands)
        ),
        "a fresh process per command": one_by_one,
        # The last one leaves a finished run.
        "the workflow": lambda: copy.run(*snakemake_command(SMOKE)),
    }
    print(f"{len(commands)} jobs of {SMOKE}, one at a time:\n")
    print("| | seconds | overhead, seconds per job |\n| :-- | --: | --: |")
    work = 0.0
    for name, way in ways.items():
        copy.remove_results()
        started = time.perf_counter()
        way()
        seconds = time.perf_counter() - started
        work = work or seconds
        print(f"| {name} | {seconds:.1f} | {(seconds - work) / len(commands):.2f} |", flush=True)


def measure_noop(run_in: Callable[..., str], configuration: str) -> None:
    """Print the time of a run with nothing to do."""
    commands = {
        "`python -c 'import snakemake.cli'`": ([sys.executable, "-c", "import snakemake.cli"], ""),
        "`snakemake --cores 1`": (snakemake_command(configuration), "nothing to be done"),
        "`make status`": (
            [sys.executable, "-m", "ppml.pipeline.status", "--configfile", configuration],
            "results are up to date\n",
        ),
    }
    print(f"\n{configuration}, nothing to do, {REPEATS} times:\n")
    print("| | seconds, median | slowest |\n| :-- | --: | --: |")
    for name, (command, expected) in commands.items():
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            output = run_in(*command)
            seconds.append(time.perf_counter() - started)
            if expected not in output:
                sys.exit(f"error: {configuration} is not finished; `make results` first\n{output}")
        print(f"| {name} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |", flush=True)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--here", metavar="CONFIGURATION", help="measure the finished run in this folder")
    here = parser.parse_args().here
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Copy(Path(temporary))
        compare_runs(copy)
        measure_noop(partial(run, folder=ROOT) if here else copy.run, here or SMOKE)


if __name__ == "__main__":
    main()
