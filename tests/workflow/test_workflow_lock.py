"""The lock of a run: one process holds it, and the end of this process releases it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ppml.errors import UserError
from ppml.pipeline.workflow_lock import WorkflowLock

HOLDER = """
import subprocess, sys
from ppml.pipeline.workflow_lock import WorkflowLock

lock = WorkflowLock()
print(lock.take(), lock.held, flush=True)
if "job" in sys.argv:
    # A job with all inheritable files.
    job = subprocess.Popen(["sleep", "60"], close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    print(job.pid, flush=True)
sys.stdin.read()
"""


JOB = """
import sys
from ppml.pipeline.workflow_lock import WorkflowLock
from ppml.errors import UserError

try:
    WorkflowLock().exit_when_run_ends()
except UserError as error:
    sys.exit(f"error: {error}")
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, in a process that holds no lock."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(WorkflowLock, "_held", {})
    # The lock sets this variable.
    monkeypatch.setenv("PPML_RUN", "")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a process with the lock, or with other code."""
    started = []

    def call(*arguments: str, code: str = HOLDER) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", code, *arguments]
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every lock, like some file systems."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)


def test_only_one_process_holds_lock(start: Callable[..., subprocess.Popen[str]]) -> None:
    first = start("--cores", "2", "a b")
    assert first.stdout.readline() == "True True\n"
    assert start().stdout.readline() == "False False\n"
    lock = WorkflowLock()
    assert (lock.take(), lock.held) == (False, False)
    assert f"process {first.pid} on {socket.gethostname()}, since 20" in lock.holder()
    assert lock.holder().endswith(": -c --cores 2 'a b'")
    refusal = f"another run is at work in this folder: {lock.holder()}; "
    assert lock.warning().startswith(refusal)
    with pytest.raises(UserError, match=re.escape(refusal)):
        lock.require()
    # A refused process changes neither the lock nor its file.
    assert start().stdout.readline() == "False False\n"
    assert f"process {first.pid} on" in lock.holder()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_lock_is_free_after_its_process(
    start: Callable[..., subprocess.Popen[str]], number: signal.Signals | None
) -> None:
    holder = start()
    holder.stdout.readline()
    lock = WorkflowLock()
    assert not lock.take()
    if number:
        holder.send_signal(number)
    else:
        holder.stdin.close()
    holder.wait()
    assert lock.take() and lock.held
    assert f"process {os.getpid()} on" in lock.holder()


def test_orphaned_job_does_not_hold_the_lock(start: Callable[..., subprocess.Popen[str]]) -> None:
    holder = start("job")
    holder.stdout.readline()
    job = int(holder.stdout.readline())
    try:
        holder.kill()
        holder.wait()
        os.kill(job, 0)
        assert WorkflowLock().take()
    finally:
        os.kill(job, signal.SIGKILL)


def test_process_can_take_its_lock_again(start: Callable[..., subprocess.Popen[str]]) -> None:
    lock = WorkflowLock()
    assert not lock.held
    assert lock.take() and lock.take()
    # Snakemake may read the workflow twice.
    again = WorkflowLock()
    assert again.held and again.take()
    assert start().stdout.readline() == "False False\n"
    del lock, again
    assert start().stdout.readline() == "False False\n"


def test_each_folder_has_a_lock(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    assert WorkflowLock().take()
    Path("other").mkdir()
    os.chdir("other")
    assert not WorkflowLock().held
    assert start().stdout.readline() == "True True\n"
    assert not WorkflowLock().take()
    assert WorkflowLock(tmp_path / ".snakemake/ppml/lock").held


@pytest.mark.usefixtures("no_locks")
def test_run_without_locks_warns_and_continues(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lock = WorkflowLock()
    assert lock.take() and lock.held
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / '.snakemake/ppml'} cannot be locked (No locks available): make sure ")
    assert f"process {os.getpid()} on" in lock.holder()


@pytest.fixture
def follow(
    start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], subprocess.Popen[str]]:
    """Return a function that starts a job of the lock's run, as Slurm does."""

    def call() -> subprocess.Popen[str]:
        monkeypatch.setenv("PPML_RUN", json.loads(Path(".snakemake/ppml/lock").read_text())["run"])
        return start(code=JOB)

    return call


ENDED = "error: the run of this job has ended"


def test_job_on_other_machine_ends_with_its_run(
    start: Callable[..., subprocess.Popen[str]], follow: Callable[[], subprocess.Popen[str]]
) -> None:
    holder = start()
    holder.stdout.readline()
    job = follow()
    assert job.stdout.readline() == "started\n"
    time.sleep(2)
    assert job.poll() is None
    # A job's check of the lock does not block the next run.
    holder.kill()
    holder.wait()
    assert WorkflowLock().take()
    assert job.wait(5) == 1
    assert job.stderr.read() == f"{ENDED}\n"


def test_job_after_its_run_does_not_start(
    start: Callable[..., subprocess.Popen[str]], follow: Callable[[], subprocess.Popen[str]]
) -> None:
    holder = start()
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    late = follow()
    assert late.wait(10) == 1
    assert late.stderr.read() == f"{ENDED}; the job did not start\n"
    assert late.stdout.read() == ""


@pytest.mark.parametrize("locks", [True, False])
def test_job_of_earlier_run_is_recognized(locks: bool, request: pytest.FixtureRequest) -> None:
    if not locks:
        request.getfixturevalue("no_locks")
    lock = WorkflowLock()
    assert lock.take()
    run = os.environ["PPML_RUN"]
    assert run == json.loads(lock._path.read_text())["run"]
    assert not lock._has_ended(run)
    assert lock._has_ended("0" * 16)
    about = json.loads(lock._path.read_text())
    # Some file systems do not show the locks of other machines.
    WorkflowLock._held.pop(lock._path).close()
    for host, has_ended in ((socket.gethostname(), locks), ("elsewhere", False)):
        lock._path.write_text(json.dumps({**about, "host": host}))
        assert lock._has_ended(run) == has_ended
    for content in ("", "{", "{}"):
        lock._path.write_text(content)
        assert not lock._has_ended(run)
    lock._path.unlink()
    assert lock._has_ended(run)


def test_process_without_run_does_not_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPML_RUN", raising=False)
    WorkflowLock().exit_when_run_ends()


def test_unwritable_lock_is_one_line() -> None:
    Path(".snakemake").write_text("in the way")
    with pytest.raises(UserError, match=r"\.snakemake/ppml"):
        WorkflowLock().take()


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"pid": 1}'])
def test_lock_without_holder_has_description(content: str | None) -> None:
    path = Path(".snakemake/ppml/lock")
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_text(content)
    assert WorkflowLock().holder() == "a process that has just started or ended"
    # The lock is free with any content of its file.
    assert WorkflowLock().take()
    assert f"process {os.getpid()} on" in WorkflowLock().holder()
