"""After a kill, an interrupt or a power failure, the next run completes the same results."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.jobs.processes import soon
from tests.workflow.kills import (
    interrupt,
    job_processes,
    kill_workflow,
    lose_power,
    lose_unwritten_files,
    pause_run,
    remove_runs,
    wait_for_jobs,
)
from tests.workflow.project import Project, wait_for_success


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after a run; no test changes it."""
    project = Project(tmp_path_factory.mktemp("finished")).keep_arms("centralized", "dp", "fl_dp")
    project.complete()
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """Return a copy without the runs of two arms."""
    project = finished.copy(tmp_path / "project")
    remove_runs(project, ["fl_dp", "centralized"])
    return project


def check_results(project: Project, finished: Project) -> None:
    """Compare the results with those of the undisturbed run, and check that no job is left."""
    assert project.reproducible_files() == finished.reproducible_files()
    assert project.planned() == set()


def run_again(project: Project, finished: Project) -> str:
    """Run to the end, compare with the undisturbed run, and return the logs of the trainings."""
    assert "lock" not in project.complete()
    check_results(project, finished)
    return "".join(path.read_text() for path in (project.output_folder("logs") / "train").glob("*.log"))


@pytest.mark.parametrize("way", [kill_workflow, lose_power])
def test_run_after_kill_resumes_training_with_same_bytes(
    project: Project, finished: Project, way: Callable[..., None]
) -> None:
    run = project.start(cores=1)
    checkpoint = project.output_folder("artifacts") / "runs/fl_dp/seed0/checkpoint.safetensors"
    assert soon(checkpoint.exists, 500)
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
    assert "resuming after round" in run_again(project, finished)


def test_run_after_kill_keeps_finished_jobs(project: Project, finished: Project) -> None:
    run = project.start(cores=1)
    done = project.output_folder("artifacts") / "runs/centralized/seed0/predictions.safetensors"
    assert soon(done.exists, 500)
    run.kill()
    run.communicate()
    assert {"train centralized/0", "train dp/0"}.isdisjoint(project.planned())
    run_again(project, finished)


def test_run_after_interrupt_completes_results(project: Project, finished: Project) -> None:
    run = project.start(cores=2)
    jobs = wait_for_jobs(run)
    interrupt(run)
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0, output
    _, alive = psutil.wait_procs(jobs, timeout=3)
    assert not alive
    run_again(project, finished)


def test_edited_code_does_not_change_current_run(project: Project, finished: Project) -> None:
    run = project.start(cores=1)
    wait_for_jobs(run)
    edited = [project.folder / name for name in ("src/ppml/learning/loop.py", "config/published.yaml")]
    before = [path.read_text() for path in edited]
    for path in edited:
        path.write_text("raise SystemError\n")
    wait_for_success(run)
    # The results belong to the code before the edit.
    for path, text in zip(edited, before, strict=True):
        path.write_text(text)
    check_results(project, finished)


def test_second_run_is_refused_with_process_of_first(project: Project, finished: Project) -> None:
    run = project.start(cores=1)
    wait_for_jobs(run)
    # Suspended: the second command fails if the run removes a file at that time.
    with pause_run(run):
        status, output = project.run()
        dry_status, dry_output = project.run("-n")
        shown, description = project.python("-m", "ppml.pipeline.status", "--configfile", project.config)
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
    wait_for_success(run)
    check_results(project, finished)
