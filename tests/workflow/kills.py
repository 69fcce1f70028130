"""Runs of the workflow that end in the middle: killed, interrupted, or without power."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.workflow.project import Project

MEASURED = (
    *("cost.json", "costs.csv", "inferences.csv", "provenance.json"),
    *("-cost.", "-summary.", "-published.", "-inference."),
)
"""Parts of the names of files that hold what is measured, or a digest of it: they differ from run to run."""


def identity(project: Project, *folders: str) -> dict[str, str]:
    """Return the SHA-256 of all files that must be the same in every run, in the folders of the smoke configuration."""
    files = project.files(*(folders or ("data/subsets", "build")))
    return {
        path: sha256
        for path, sha256 in files.items()
        if "/logs" not in path and not any(part in path for part in MEASURED)
    }


def jobs_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of the jobs that a run has at work: those of Python, and those that they wait for."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            command = process.cmdline()
            parent = process.parent()
            served = parent is not None and "ppml.jobs.fork_server" in parent.cmdline()
        except psutil.Error:
            continue
        if "ppml.stages" in command or served:
            found.append(process)
    return found


@contextmanager
def at_rest(run: subprocess.Popen[str]) -> Iterator[list[psutil.Process]]:
    """Let a run and all its jobs, which are given, stand still for the time of the block."""
    main = psutil.Process(run.pid)
    stopped: list[psutil.Process] = []
    try:
        # Until there is no new one: what is found first may have started others before it was stopped.
        while new := [one for one in (main, *main.children(recursive=True)) if one not in stopped]:
            for process in new:
                stopped.append(process)
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
        yield stopped
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def kill_workflow(run: subprocess.Popen[str], rng: random.Random) -> None:
    """Kill the workflow and leave its jobs to themselves."""
    run.kill()


def kill_job(run: subprocess.Popen[str], rng: random.Random) -> None:
    """Kill one job; the workflow goes on without it, and fails."""
    deadline = time.monotonic() + 120
    while run.poll() is None and time.monotonic() < deadline:
        jobs = jobs_of(run)
        if jobs:
            try:
                rng.choice(jobs).kill()
            except psutil.NoSuchProcess:
                continue
            return
        time.sleep(0.02)


def lose_power(run: subprocess.Popen[str], rng: random.Random) -> None:
    """Kill everything at once, and lose what was written without waiting for the disk: Snakemake's own records."""
    with at_rest(run) as processes:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def forget_unwritten(project: Project, rng: random.Random, seconds: float = 5.0) -> None:
    """Empty or remove some of the files that Snakemake wrote in the last seconds before the power went."""
    state = project.folder / ".snakemake"
    paths = [
        path for part in ("metadata", "incomplete", "ppml") for path in (state / part).rglob("*") if path.is_file()
    ]
    newest = max((path.stat().st_mtime for path in paths), default=0.0)
    for path in sorted(paths):
        if path.stat().st_mtime > newest - seconds and path.name != "lock" and rng.random() < 0.5:
            if rng.random() < 0.5:
                path.write_bytes(b"")
            else:
                path.unlink()


def interrupt(run: subprocess.Popen[str]) -> None:
    """Press Ctrl-C."""
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        try:
            process.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            continue


def forget_runs(project: Project, arms: list[str]) -> None:
    """Remove what was trained of some arms."""
    for arm in arms:
        for path in (project.made("artifacts") / "runs" / arm).rglob("*"):
            if path.is_file():
                path.unlink()


def wait_for(path: Path, seconds: float = 500.0) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def wait_for_jobs(run: subprocess.Popen[str], seconds: float = 300.0) -> list[psutil.Process]:
    """Wait until a run has jobs at work, and return them."""
    deadline = time.monotonic() + seconds
    while not (jobs := jobs_of(run)):
        assert time.monotonic() < deadline, "no job came"
        time.sleep(0.05)
    return jobs
