"""The whole workflow on a real Slurm of one node: the same bytes as without it, and nothing left behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.long.slurm_node import obstacle
from tests.workflow.project import Project

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=f"no Slurm here: {obstacle()}")

NODE = [sys.executable, str(Path(__file__).with_name("slurm_node.py"))]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--configfile", "config/smoke.yaml"]
PLACES = ("data/subsets", "build/smoke/artifacts", "build/smoke/reports")
# Without a mirror and a network the workflow falls back to other data, in folders of their own.
FOLDERS = (*PLACES, *(f"{place}-digits" for place in PLACES[1:]))
# These show seconds, memory or the sizes of ciphertexts, which differ between any two runs.
MEASURED = re.compile(
    r"/(inference-)?cost\.json$|/(costs|inferences)\.csv$|/tables/[^/]+-(summary|published|inference)\.|/figures/[^/]+-cost\."
)
BOOK = "provenance.json"


def run(project: Project, *command: str) -> tuple[str, float]:
    """Run a command in the project's folder and return what it printed and its seconds."""
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=project.folder,
        env=project.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout, time.monotonic() - start


def jobs_of(output: str) -> int:
    done = re.search(r"^done: (\d+) jobs", output, re.MULTILINE)
    assert done, output
    return int(done[1])


def book(project: Project) -> dict[str, Any]:
    """Return a project's record book without the checksums of what was measured, and what covers them."""
    content: dict[str, Any] = json.loads((project.made("reports") / BOOK).read_text())
    for entry in content["jobs"]:
        del entry["digest"]
        for part in ("inputs", "outputs"):
            entry[part] = {name: not MEASURED.search(name) and sha256 for name, sha256 in entry[part].items()}
    return content


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, int, float]:
    """Return a project that has run without Slurm, its jobs and its seconds."""
    project = Project(tmp_path_factory.mktemp("local"))
    output, seconds = run(project, *SNAKEMAKE, "--cores", "2")
    return project, jobs_of(output), seconds


def check_same(project: Project, other: Project) -> int:
    """Compare everything that identity covers; return how many files that are."""
    ours, theirs = project.files(*FOLDERS), other.files(*FOLDERS)
    assert ours.keys() == theirs.keys()
    identical = {path for path in ours if not MEASURED.search(path) and Path(path).name != BOOK}
    assert {path for path in identical if ours[path] != theirs[path]} == set()
    assert book(project) == book(other)
    # What was made is complete in Snakemake's own records, too.
    output, _ = run(other, *SNAKEMAKE, "--cores", "2", "--dry-run")
    assert "nothing to be done" in output
    return len(identical)


def test_slurm_makes_the_bytes_that_a_local_run_makes(
    local: tuple[Project, int, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, jobs, local_seconds = local
    slurm = Project(tmp_path)
    output, slurm_seconds = run(slurm, *NODE, *SNAKEMAKE, "--profile", "profiles/slurm")
    assert jobs_of(output) == jobs
    (log,) = (slurm.folder / ".snakemake/log").glob("*.log")
    submitted = set(re.findall(r"has been submitted with SLURM jobid (\d+)", log.read_text()))
    # All but `all`, which runs nothing.
    assert len(submitted) == jobs - 1
    identical = check_same(first, slurm)
    with capsys.disabled():
        print(
            f"\n{jobs} jobs: {local_seconds:.0f} s on 2 cores, {slurm_seconds:.0f} s by {len(submitted)} Slurm jobs; "
            f"{identical} files identical"
        )


KILLED = """
snakemake="$1 -m snakemake --configfile config/smoke.yaml"
made() { find data build -type f -printf '%p %i %T@\\n' | grep -v /logs/ | sort; }
$snakemake --profile profiles/slurm &
while [ "$(squeue -h -t RUNNING | wc -l)" -lt 2 ]; do sleep .2; done
kill -9 $!
$snakemake --cores 2 || exit 1
made > made
echo "left: $(squeue -h | wc -l)"
while squeue -h | grep -q .; do sleep 1; done
made | cmp - made
"""


def test_jobs_of_a_run_that_was_killed_write_nothing_under_the_next_one(
    local: tuple[Project, int, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path)
    output, _ = run(project, *NODE, "sh", "-c", KILLED, "sh", sys.executable)
    check_same(local[0], project)
    with capsys.disabled():
        print("\n" + next(line for line in output.splitlines() if line.startswith("left: ")))


def processes_of(configuration: str) -> list[str]:
    """Return the processes that carry a Slurm configuration in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURM_CONF={configuration}".encode() in environment:
            found.append(process.name)
    return found


def test_the_status_is_the_commands_and_nothing_is_left() -> None:
    script = 'srun hostname && sbatch --output /dev/null --wrap "sleep 1000" && echo "$SLURM_CONF" && exit 3'
    done = subprocess.run([*NODE, "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    configuration = done.stdout.splitlines()[-1]
    assert not Path(configuration).parent.exists()
    assert processes_of(configuration) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_the_jobs_and_the_node(number: signal.Signals) -> None:
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


def test_the_node_ends_with_who_started_it() -> None:
    start = f"import subprocess, sys; subprocess.run({[*NODE, 'sh', '-c', 'echo $SLURM_CONF; exec sleep 1000']!r})"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        configuration = starter.stdout.readline().strip()
        starter.kill()
        over = time.monotonic() + 60
        while Path(configuration).parent.exists() and time.monotonic() < over:
            time.sleep(0.1)
    assert not Path(configuration).parent.exists()
    assert processes_of(configuration) == []
