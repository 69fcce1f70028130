"""What the workflow costs beside the work of its jobs, next to the same commands without a workflow.

``python benchmarks/workflow.py`` runs the smoke configuration in a temporary folder, one job at a time, in three ways:
by Snakemake as `make results` does, with a fresh process for each command, and all commands in one process, which is
the work itself. Then it looks at a run that is finished: that one, or with ``--here CONFIGURATION`` the one in this
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
from ppml.pipeline.status import look
levels = look([sys.argv[1]])[1].dag.toposorted()
print(json.dumps([job.shellcmd for level in levels for job in sorted(level, key=str) if job.shellcmd]))
"""
IN_ONE_PROCESS = """
import json, shlex, sys
from ppml.stages.runner import run_stage
for command in json.load(sys.stdin):
    words = shlex.split(command)
    stage = words.index("ppml.stages") + 1
    run_stage(words[stage], words[stage + 1 : words.index(">")])
"""


class Copy:
    """The project in a folder of its own.

    Parameters
    ----------
    folder : Path
        An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            # As the workflow gives it to its jobs.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(folder / "src"),
            "PPML_DATA_MIRROR": os.environ.get("PPML_DATA_MIRROR", str(MIRROR)),
        }
        for part in PARTS:
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / part)

    def run(self, *command: str, given: str = "") -> str:
        """Run a command in the folder and return what it printed."""
        return run(*command, folder=self.folder, environment=self._environment, given=given)

    def forget(self) -> None:
        """Remove all results but the raw data."""
        for part in ("build", "data/subsets"):
            for path in (self.folder / part).rglob("*"):
                if path.is_file():
                    path.unlink()


def run(*command: str, folder: Path, environment: dict[str, str] | None = None, given: str = "") -> str:
    """Run a command and return what it printed; exit where it fails."""
    done = subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(command)[:200]}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def machine() -> str:
    """Return what the figures were measured on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores, {cpus[0].partition(': ')[2]}, Python {platform.python_version()}"


def workflow(configuration: str) -> list[str]:
    """Return the command that runs the workflow."""
    return [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", configuration]


def compare_runs(copy: Copy) -> None:
    """Print what all jobs cost in each way to run them."""
    copy.run(*workflow(SMOKE))
    commands = json.loads(copy.run(sys.executable, "-c", COMMANDS, SMOKE).splitlines()[-1])
    # The raw data are there already.
    commands = [command for command in commands if "ppml.stages fetch " not in command]

    def one_by_one() -> None:
        for command in commands:
            copy.run("sh", "-c", command)

    ways: dict[str, Callable[[], object]] = {
        "all commands in one process": lambda: copy.run(
            sys.executable, "-c", IN_ONE_PROCESS, given=json.dumps(commands)
        ),
        "a fresh process a command": one_by_one,
        # Last, since it leaves a run that is finished.
        "the workflow": lambda: copy.run(*workflow(SMOKE)),
    }
    print(f"{len(commands)} jobs of {SMOKE}, one at a time:\n")
    print("| | seconds | beyond the work, seconds a job |\n| :-- | --: | --: |")
    work = 0.0
    for name, way in ways.items():
        copy.forget()
        started = time.perf_counter()
        way()
        seconds = time.perf_counter() - started
        work = work or seconds
        print(f"| {name} | {seconds:.1f} | {(seconds - work) / len(commands):.2f} |", flush=True)


def look(run_in: Callable[..., str], configuration: str) -> None:
    """Print what it costs to find that nothing is to be done."""
    looks = {
        "`python -c 'import snakemake.cli'`": ([sys.executable, "-c", "import snakemake.cli"], ""),
        "`snakemake --cores 1`": (workflow(configuration), "nothing to be done"),
        "`make status`": (
            [sys.executable, "-m", "ppml.pipeline.status", "--configfile", configuration],
            "results are up to date\n",
        ),
    }
    print(f"\n{configuration}, nothing to be done, {REPEATS} times:\n")
    print("| | seconds, median | slowest |\n| :-- | --: | --: |")
    for name, (command, says) in looks.items():
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            said = run_in(*command)
            seconds.append(time.perf_counter() - started)
            if says not in said:
                sys.exit(f"error: {configuration} is not finished; `make results` first\n{said}")
        print(f"| {name} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |", flush=True)


def main() -> None:
    """Print both tables, in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--here", metavar="CONFIGURATION", help="look at the finished run in this folder")
    here = parser.parse_args().here
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Copy(Path(temporary))
        compare_runs(copy)
        look(partial(run, folder=ROOT) if here else copy.run, here or SMOKE)


if __name__ == "__main__":
    main()
