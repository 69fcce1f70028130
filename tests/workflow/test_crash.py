"""What a run that was killed, interrupted or without power leaves behind: nothing that the next one stumbles over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.workflow.kills import (
    at_rest,
    forget_runs,
    forget_unwritten,
    identity,
    interrupt,
    jobs_of,
    kill_workflow,
    lose_power,
    wait_for,
    wait_for_jobs,
)
from tests.workflow.project import Project

ARMS = ["fl_dp", "centralized"]


def unfinished(first: Project, folder: Path, arms: list[str]) -> Project:
    """Return a copy of a project in which some arms are still to be trained."""
    project = first.copy(folder)
    forget_runs(project, arms)
    return project


@pytest.fixture
def project(first: Project, tmp_path: Path) -> Project:
    return unfinished(first, tmp_path / "project", ARMS)


@pytest.fixture
def almost_done(first: Project, tmp_path: Path) -> Project:
    return unfinished(first, tmp_path / "project", ["centralized"])


def run_again(project: Project, first: Project) -> str:
    """Run to the end, compare with the undisturbed run, and return what the trainings said."""
    status, output = project.run()
    assert status == 0, output
    assert "lock" not in output
    assert identity(project) == identity(first)
    assert project.planned() == set()
    return "".join(path.read_text() for path in (project.made("logs") / "train").glob("*.log"))


@pytest.mark.parametrize("way", [kill_workflow, lose_power])
def test_a_killed_run_is_made_good_and_a_federated_training_goes_on(
    project: Project, first: Project, way: Callable[..., None]
) -> None:
    run = project.start(cores=1)
    runs = project.made("artifacts") / "runs/fl_dp"
    deadline = time.monotonic() + 500
    while not list(runs.glob("seed*/progress.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # It has few rounds, which would be over by the time that its processes are found.
    with at_rest(run):
        jobs = jobs_of(run)
        assert jobs
        way(run, random.Random(0))
    run.communicate()
    _, alive = psutil.wait_procs(jobs, timeout=3)
    assert not alive, "a job went on without its workflow"
    if way is lose_power:
        forget_unwritten(project, random.Random(0))
    assert "resuming after round" in run_again(project, first)


def test_a_killed_run_leaves_what_was_done_alone(project: Project, first: Project) -> None:
    run = project.start(cores=1)
    done = project.made("artifacts") / "runs/centralized/seed0/predictions.safetensors"
    wait_for(done)
    # Until Snakemake has written down that the job has ended.
    record = "predict/centralized-seed0.log"
    time.sleep(3)
    run.kill()
    run.communicate()
    planned = project.planned()
    assert "train centralized/0" not in planned, record
    assert "train fl/0" not in planned
    run_again(project, first)


def test_control_c_stops_at_once_and_the_next_run_goes_on(project: Project, first: Project) -> None:
    run = project.start(cores=2)
    jobs = wait_for_jobs(run)
    interrupt(run)
    output, _ = run.communicate(timeout=300)
    assert run.returncode != 0, output
    _, alive = psutil.wait_procs(jobs, timeout=3)
    assert not alive
    run_again(project, first)


def test_code_that_is_edited_while_a_run_is_at_work_changes_nothing_in_it(almost_done: Project, first: Project) -> None:
    run = almost_done.start(cores=1)
    wait_for_jobs(run)
    edited = [almost_done.folder / name for name in ("src/ppml/learning/loop.py", "config/published.yaml")]
    before = [path.read_text() for path in edited]
    for path in edited:
        path.write_text("raise SystemError\n")
    output, _ = run.communicate()
    assert run.returncode == 0, output
    # As if it had never been: what was made was made by what is there.
    for path, text in zip(edited, before, strict=True):
        path.write_text(text)
    assert identity(almost_done) == identity(first)
    assert almost_done.planned() == set()


def test_a_second_run_says_who_is_at_work_and_harms_nothing(almost_done: Project, first: Project) -> None:
    run = almost_done.start(cores=1)
    wait_for_jobs(run)
    # What it removes meanwhile may end a look.
    with at_rest(run):
        status, output = almost_done.run()
        looked, seen = almost_done.run("-n")
        stated, told = almost_done.python("-m", "ppml.pipeline.status", "--configfile", almost_done.config)
    assert status != 0
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, output
    assert f"another run is at work in this folder: process {run.pid} on " in errors[0]
    assert "Traceback" not in output
    assert (looked, stated) == (0, 0), seen + told
    warning = f"warning: another run is at work in this folder: process {run.pid} on "
    for text in (seen, told):
        assert [line.startswith(warning) for line in text.splitlines() if "warning" in line] == [True]
    assert "warning" not in output
    output, _ = run.communicate()
    assert run.returncode == 0, output
    run_again(almost_done, first)
