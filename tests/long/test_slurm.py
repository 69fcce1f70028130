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
# These show seconds, memory or the sizes of ciphertexts, which differ between any two runs; the record book holds the
# checksums of these files.
MEASURED = re.compile(r"/cost\.json$|/costs\.csv$|/tables/[^/]+-(summary|published)\.|/figures/[^/]+-cost\.")
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
    (path,) = (project.folder / "build/smoke").glob(f"reports*/{BOOK}")
    content: dict[str, Any] = json.loads(path.read_text())
    return {**content, "files": {name: sum_ for name, sum_ in content["files"].items() if not MEASURED.search(name)}}


def test_slurm_makes_the_bytes_that_a_local_run_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    projects = []
    for name in ("local", "slurm"):
        (tmp_path / name).mkdir()
        projects.append(Project(tmp_path / name))
    local, slurm = projects

    output, local_seconds = run(local, *SNAKEMAKE, "--cores", "2")
    jobs = jobs_of(output)
    output, slurm_seconds = run(slurm, *NODE, *SNAKEMAKE, "--profile", "profiles/slurm")
    assert jobs_of(output) == jobs

    (log,) = (slurm.folder / ".snakemake/log").glob("*.log")
    submitted = set(re.findall(r"has been submitted with SLURM jobid (\d+)", log.read_text()))
    # All but `all`, which runs nothing.
    assert len(submitted) == jobs - 1

    ours, theirs = local.files(*FOLDERS), slurm.files(*FOLDERS)
    assert ours.keys() == theirs.keys()
    identical = {path for path in ours if not MEASURED.search(path) and Path(path).name != BOOK}
    assert {path for path in identical if ours[path] != theirs[path]} == set()
    assert book(local) == book(slurm)

    # What Slurm made is complete in Snakemake's own records, too.
    output, _ = run(slurm, *SNAKEMAKE, "--cores", "2", "--dry-run")
    assert "nothing to be done" in output

    with capsys.disabled():
        print(
            f"\n{jobs} jobs: {local_seconds:.0f} s on 2 cores, {slurm_seconds:.0f} s by {len(submitted)} Slurm jobs; "
            f"{len(identical)} files identical, {len(ours) - len(identical)} with measured values"
        )


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
    script = 'srun hostname && sbatch --wrap "sleep 1000" && echo "$SLURM_CONF" && exit 3'
    done = subprocess.run([*NODE, "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    configuration = done.stdout.splitlines()[-1]
    assert not Path(configuration).parent.exists()
    assert processes_of(configuration) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_the_jobs_and_the_node(number: signal.Signals) -> None:
    script = 'sbatch --wrap "sleep 1000" >&2; while ! squeue -h -o %T | grep -q RUNNING; do sleep .2; done; '
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
