"""The whole workflow on a real Slurm of one node gives the same bytes as without Slurm, and no process remains."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.jobs.processes import soon
from tests.long.slurm_node import obstacle
from tests.workflow.project import Project, is_measured, wait_for_success

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=f"no Slurm: {obstacle()}")

NODE = [sys.executable, str(Path(__file__).with_name("slurm_node.py"))]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--configfile", "config/smoke.yaml"]
BOOK = "provenance.json"


def run(project: Project, *command: str) -> tuple[str, float]:
    """Run a command in the project's folder, and return its output and its seconds."""
    start = time.monotonic()
    output = wait_for_success(project.popen(*command))
    return output, time.monotonic() - start


def count_jobs(output: str) -> int:
    done = re.search(r"^done: (\d+) jobs", output, re.MULTILINE)
    assert done, output
    return int(done[1])


def read_book(project: Project) -> dict[str, Any]:
    """Return a project's record book without measurements, their digests, and the digests of entries."""
    content: dict[str, Any] = json.loads((project.output_folder("reports") / BOOK).read_text())
    for entry in content["jobs"]:
        for measured in ("digest", "seconds", "bytes"):
            del entry[measured]
        for part in ("inputs", "outputs"):
            entry[part] = {name: not is_measured(name) and sha256 for name, sha256 in entry[part].items()}
    return content


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, int, float]:
    """Return a project after a run without Slurm, its number of jobs and its seconds."""
    project = Project(tmp_path_factory.mktemp("local"))
    output, seconds = run(project, *SNAKEMAKE, "--cores", "2")
    return project, count_jobs(output), seconds


def check_same(project: Project, other: Project) -> int:
    """Compare all files without measurements, and return their number."""
    identical = project.reproducible_files()
    assert other.reproducible_files() == identical
    assert read_book(project) == read_book(other)
    # Snakemake's own records are complete as well.
    output, _ = run(other, *SNAKEMAKE, "--cores", "2", "--dry-run")
    assert "nothing to be done" in output
    return len(identical)


def test_slurm_makes_same_bytes_as_local_run(
    local: tuple[Project, int, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, jobs, local_seconds = local
    slurm = Project(tmp_path)
    output, slurm_seconds = run(slurm, *NODE, *SNAKEMAKE, "--profile", "profiles/slurm")
    assert count_jobs(output) == jobs
    (log,) = (slurm.folder / ".snakemake/log").glob("*.log")
    submitted = set(re.findall(r"has been submitted with SLURM jobid (\d+)", log.read_text()))
    # The rule `all` has no command.
    assert len(submitted) == jobs - 1
    identical = check_same(first, slurm)
    with capsys.disabled():
        print(
            f"\n{jobs} jobs: {local_seconds:.0f} s on 2 cores, {slurm_seconds:.0f} s by {len(submitted)} Slurm jobs; "
            f"{identical} files identical"
        )


KILLED = """
snakemake="$1 -m snakemake --configfile config/smoke.yaml"
list() { find data build -type f -printf '%p %i %T@\\n' | grep -v /logs/ | sort; }
$snakemake --profile profiles/slurm &
while [ "$(squeue -h -t RUNNING | wc -l)" -lt 2 ]; do sleep .2; done
kill -9 $!
$snakemake --cores 2 || exit 1
list > list
echo "remaining: $(squeue -h | wc -l)"
while squeue -h | grep -q .; do sleep 1; done
list | cmp - list
"""


def test_jobs_of_killed_run_write_no_file_of_next_run(
    local: tuple[Project, int, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path)
    output, _ = run(project, *NODE, "sh", "-c", KILLED, "sh", sys.executable)
    check_same(local[0], project)
    with capsys.disabled():
        print("\n" + next(line for line in output.splitlines() if line.startswith("remaining: ")))


def processes_of(configuration: str) -> list[int]:
    """Return the processes with a Slurm configuration in their environment."""
    running = psutil.process_iter(["environ"])
    return [one.pid for one in running if (one.info["environ"] or {}).get("SLURM_CONF") == configuration]


def test_node_returns_status_of_command_and_removes_files() -> None:
    script = 'srun hostname && sbatch --output /dev/null --wrap "sleep 1000" && echo "$SLURM_CONF" && exit 3'
    done = subprocess.run([*NODE, "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    configuration = done.stdout.splitlines()[-1]
    assert not Path(configuration).parent.exists()
    assert processes_of(configuration) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_jobs_and_node(number: signal.Signals) -> None:
    script = 'sbatch --output /dev/null --wrap "sleep 1000" >&2; '
    script += "while ! squeue -h -o %T | grep -q RUNNING; do sleep .2; done; "
    script += 'echo "$SLURM_CONF"; exec sleep 1000'
    with subprocess.Popen([*NODE, "sh", "-c", script], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout
        configuration = node.stdout.readline().strip()
        assert len(processes_of(configuration)) > 3
        node.send_signal(number)
        assert node.wait(60) == 128 + number
    assert not Path(configuration).parent.exists()
    assert processes_of(configuration) == []


def test_node_ends_with_its_parent() -> None:
    start = f"import subprocess, sys; subprocess.run({[*NODE, 'sh', '-c', 'echo $SLURM_CONF; exec sleep 1000']!r})"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        configuration = starter.stdout.readline().strip()
        starter.kill()
        assert soon(lambda: not Path(configuration).parent.exists(), 60)
    assert processes_of(configuration) == []
