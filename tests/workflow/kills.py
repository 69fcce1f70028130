"""Premature ends of a run: a kill, an interrupt, a power failure."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.workflow.project import Project


def job_processes(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of the current jobs: the clients of the fork server and its child processes."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            command = process.cmdline()
            parent = process.parent()
            served = parent is not None and "ppml.jobs.fork_server" in parent.cmdline()
        except psutil.Error:
            continue
        if "ppml.jobs" in command or served:
            found.append(process)
    return found


@contextmanager
def pause_run(run: subprocess.Popen[str]) -> Iterator[list[psutil.Process]]:
    """Suspend a run and all its jobs during the block, and yield their processes."""
    main = psutil.Process(run.pid)
    stopped: list[psutil.Process] = []
    try:
        # A process can start others before its suspension, so repeat until no new process appears.
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
    """Kill the workflow, but not its jobs."""
    run.kill()


def kill_job(run: subprocess.Popen[str], rng: random.Random) -> None:
    """Kill one job; the workflow continues without it, and fails."""
    deadline = time.monotonic() + 120
    while run.poll() is None and time.monotonic() < deadline:
        jobs = job_processes(run)
        if jobs:
            try:
                rng.choice(jobs).kill()
            except psutil.NoSuchProcess:
                continue
            return
        time.sleep(0.02)


def lose_power(run: subprocess.Popen[str], rng: random.Random) -> None:
    """Kill all processes at once."""
    with pause_run(run) as processes:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def lose_unwritten_files(project: Project, rng: random.Random, seconds: float = 5.0) -> None:
    """Empty or remove some records of the last seconds, which were written without waiting for the disk."""
    state = project.folder / ".snakemake"
    paths = [path for part in ("incomplete", "ppml") for path in (state / part).rglob("*") if path.is_file()]
    newest = max((path.stat().st_mtime for path in paths), default=0.0)
    for path in sorted(paths):
        if path.stat().st_mtime > newest - seconds and path.name != "lock" and rng.random() < 0.5:
            if rng.random() < 0.5:
                path.write_bytes(b"")
            else:
                path.unlink()


def interrupt(run: subprocess.Popen[str]) -> None:
    """Send the signal of Ctrl-C to all processes."""
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        try:
            process.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            continue


def remove_runs(project: Project, arms: list[str]) -> None:
    """Remove the runs of some arms."""
    for arm in arms:
        for path in (project.output_folder("artifacts") / "runs" / arm).rglob("*"):
            if path.is_file():
                path.unlink()


def wait_for_jobs(run: subprocess.Popen[str], seconds: float = 300.0) -> list[psutil.Process]:
    """Wait until a run has started jobs, and return their processes."""
    deadline = time.monotonic() + seconds
    while not (jobs := job_processes(run)):
        assert time.monotonic() < deadline, "no job has started"
        time.sleep(0.05)
    return jobs
