"""After a kill, an interrupt or a power failure, the next run completes the same results."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.workflow.kills import (
    interrupt,
    job_processes,
    kill_workflow,
    lose_power,
    lose_unwritten_files,
    pause_run,
    remove_runs,
    reproducible_files,
    wait_for,
    wait_for_jobs,
)
from tests.workflow.project import Project

ARMS = ["fl_dp", "centralized"]


def copy_without_runs(smoke: Project, folder: Path, arms: list[str]) -> Project:
    """Return a copy of a project without the runs of some arms."""
    project = smoke.copy(folder)
    remove_runs(project, arms)
    return project


@pytest.fixture
def project(smoke: Project, tmp_path: Path) -> Project:
    return copy_without_runs(smoke, tmp_path / "project", ARMS)


@pytest.fixture
def almost_done(smoke: Project, tmp_path: Path) -> Project:
    return copy_without_runs(smoke, tmp_path / "project", ["centralized"])


def run_again(project: Project, smoke: Project) -> str:
    """Run to the end, compare with the undisturbed run, and return the logs of the trainings."""
    status, output = project.run()
    assert status == 0, output
    assert "lock" not in output
    assert reproducible_files(project) == reproducible_files(smoke)
    assert project.planned() == set()
    return "".join(path.read_text() for path in (project.output_folder("logs") / "train").glob("*.log"))


@pytest.mark.parametrize("way", [kill_workflow, lose_power])
def test_run_after_kill_resumes_training_with_same_bytes(
    project: Project, smoke: Project, way: Callable[..., None]
) -> None:
    run = project.start(cores=1)
    runs = project.output_folder("artifacts") / "runs/fl_dp"
    deadline = time.monotonic() + 500
    while not list(runs.glob("seed*/progress.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # Suspended: the search for processes takes longer than the few rounds.
    with pause_run(run):
        jobs = job_processes(run)
        assert jobs
        way(run, random.Random(0))
    run.communicate()
    _, alive = psutil.wait_procs(jobs, timeout=3)
    assert not alive, "a job continues without its workflow"
    if way is lose_power:
        lose_unwritten_files(project, random.Random(0))
    assert "resuming after round" in run_again(project, smoke)


def test_run_after_kill_keeps_finished_jobs(project: Project, smoke: Project) -> None:
    run = project.start(cores=1)
    done = project.output_folder("artifacts") / "runs/centralized/seed0/predictions.safetensors"
    wait_for(done)
    # Until the job has written its record.
    time.sleep(3)
    run.kill()
    run.communicate()
    planned = project.planned()
    assert {"train centralized/0", "train fl/0"}.isdisjoint(planned)
    run_again(project, smoke)


def test_run_after_interrupt_completes_results(project: Project, smoke: Project) -> None:
    run = project.start(cores=2)
    jobs = wait_for_jobs(run)
    interrupt(run)
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0, output
    _, alive = psutil.wait_procs(jobs, timeout=3)
    assert not alive
    run_again(project, smoke)


def test_edited_code_does_not_change_current_run(almost_done: Project, smoke: Project) -> None:
    run = almost_done.start(cores=1)
    wait_for_jobs(run)
    edited = [almost_done.folder / name for name in ("src/ppml/learning/loop.py", "config/published.yaml")]
    before = [path.read_text() for path in edited]
    for path in edited:
        path.write_text("raise SystemError\n")
    output, _ = run.communicate()
    assert run.returncode == 0, output
    # The results belong to the code before the edit.
    for path, text in zip(edited, before, strict=True):
        path.write_text(text)
    assert reproducible_files(almost_done) == reproducible_files(smoke)
    assert almost_done.planned() == set()


def test_second_run_is_refused_with_process_of_first(almost_done: Project, smoke: Project) -> None:
    run = almost_done.start(cores=1)
    wait_for_jobs(run)
    # Suspended: the second command fails if the run removes a file at that time.
    with pause_run(run):
        status, output = almost_done.run()
        dry_status, dry_output = almost_done.run("-n")
        shown, description = almost_done.python("-m", "ppml.pipeline.status", "--configfile", almost_done.config)
    assert status != 0
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, output
    assert f"another run is at work in this folder: process {run.pid} on " in errors[0]
    assert "Traceback" not in output
    assert (dry_status, shown) == (0, 0), dry_output + description
    warning = f"warning: another run is at work in this folder: process {run.pid} on "
    for text in (dry_output, description):
        assert [line.startswith(warning) for line in text.splitlines() if "warning" in line] == [True]
    assert "warning" not in output
    output, _ = run.communicate()
    assert run.returncode == 0, output
    run_again(almost_done, smoke)
