"""The start and the end of jobs in a new process and in a child process of the fork server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml.ipc import parent_watch
from ppml.jobs import fork_client, fork_server
from ppml.jobs.stage_names import stage_names
from ppml.pipeline.stages import PAGES, STAGES

from .processes import alive, soon

PACKAGE = Path(fork_server.__file__).parents[1]
JOB = [sys.executable, "-m", "ppml.jobs"]
PRELOAD = {"overview": ("numpy.random", "no_such_library")}
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the fork server needs Linux")
ENDED = "error: the process that started this job has ended\n"

# A stage without libraries: it prints its process ids and runs a command.
PROBE = """
import os, random, signal, sys, time, warnings
from pathlib import Path
from ppml import edited
from ppml.errors import UserError
from ppml.jobs.job import Job

def run(job: Job):
    command, *arguments = job.spec
    print(os.getpid(), os.getppid(), flush=True)
    if command == "print":
        surroundings = [str(Path.cwd()), os.environ.get("COLOUR"), os.environ["OMP_NUM_THREADS"], edited.VALUE]
        print(ascii([*surroundings, *arguments]))
        print(sys.stdin.read(), file=sys.stderr)
        Path("made").touch()
    elif command == "sleep":
        try:
            print("asleep", flush=True)
            time.sleep(60)
        finally:
            time.sleep(0.3)
            Path("cleaned").touch()
    elif command == "exit":
        sys.exit(eval(arguments[0]))
    elif command == "die":
        os.kill(os.getpid(), int(arguments[0]))
    elif command == "refuse":
        raise UserError("data.train: got -1")
    elif command == "state":
        import numpy
        numbers = (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)
        print(*(signal.getsignal(number).name for number in numbers), len(warnings.filters), time.process_time() < 0.5)
        print(random.random(), *numpy.random.random(3))
    else:
        raise ZeroDivisionError
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a copy of the package, whose stage overview is the probe, in the import path."""
    package = tmp_path / "code" / "ppml"
    for name in ("jobs", "ipc", "io"):
        shutil.copytree(PACKAGE / name, package / name)
    (package / "stages").mkdir()
    for name in ("__init__", "errors", "system_errors", "stages/__init__"):
        shutil.copy(PACKAGE / f"{name}.py", package / f"{name}.py")
    (package / "stages" / "overview.py").write_text(PROBE)
    (package / "edited.py").write_text("VALUE = 'before'\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv(fork_client.ENV_SERVER, "")
    monkeypatch.setenv(parent_watch.ENV_PARENT, "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Return a fork server."""
    if sys.platform != "linux":
        pytest.skip("the fork server needs Linux")
    process = fork_server.start(PRELOAD)
    assert process and process.stdin
    yield process
    process.stdin.close()
    assert process.wait(5) in (0, -signal.SIGKILL)
    assert not list((folder / "temporary").iterdir())


@pytest.fixture(params=["server", "none"])
def starter(request: pytest.FixtureRequest) -> int | None:
    """Return the process id of a server, or None without a server: jobs must behave equally."""
    if request.param == "server":
        return int(request.getfixturevalue("server").pid)
    request.getfixturevalue("folder")
    return None


def begin(*arguments: str, **options: object) -> subprocess.Popen[str]:
    """Start a job of the stage overview like the workflow."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*JOB, "overview", "--spec", json.dumps(arguments)], text=True, **{**pipes, **options})


def finish(job: subprocess.Popen[str], starter: int | None) -> tuple[int, str, str]:
    """Return a job's status, output and errors, and check its parent."""
    output, errors = job.communicate(timeout=120)
    first, _, rest = output.partition("\n")
    assert int(first.split()[1]) == (starter or os.getpid())
    return job.returncode, rest, errors


def pid_of(job: subprocess.Popen[str]) -> int:
    """Return the process id of a sleeping job."""
    assert job.stdout
    pid, asleep = job.stdout.readline().split()[0], job.stdout.readline()
    assert asleep == "asleep\n"
    return int(pid)


def test_job_has_environment_of_its_command(starter, folder):
    (folder / "other").mkdir()
    (folder / "input").write_text("asked")
    environment = {**os.environ, "COLOUR": "blue\udcff", "OMP_NUM_THREADS": "7"}
    with (folder / "input").open() as file:
        job = begin("print", "a b", "ü", stdin=file, cwd=folder / "other", env=environment, umask=0o027)
        status, output, errors = finish(job, starter)
    assert (status, errors) == (0, "asked\n")
    assert output == ascii([str(folder / "other"), "blue\udcff", "1", "before", "a b", "ü"]) + "\n"
    assert stat.S_IMODE((folder / "other" / "made").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("code", "status", "errors"), [("0", 0, ""), ("None", 0, ""), ("3", 3, ""), ("True", 1, ""), ("'why'", 1, "why\n")]
)
def test_client_exits_with_status_of_job(code, status, errors, starter):
    assert finish(begin("exit", code), starter) == (status, "", errors)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_client_exits_with_signal_of_job(number, starter):
    assert finish(begin("die", str(int(number))), starter) == (-number, "", "")


def test_user_error_is_one_line_and_other_errors_a_traceback(starter):
    assert finish(begin("refuse"), starter) == (1, "", "error: data.train: got -1\n")
    status, _, errors = finish(begin("fail"), starter)
    assert status == 1
    assert errors.startswith("Traceback") and errors.endswith("\nZeroDivisionError\n")


@pytest.mark.parametrize("arguments", [[], ["storage"], ["../train"], ["--help"]])
def test_unknown_stage_is_one_line(arguments):
    found = subprocess.run([*JOB, *arguments], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: unknown stage ") and found.stderr.count("\n") == 1
    assert ", ".join(stage_names()) in found.stderr


def test_every_stage_is_declared():
    assert set(stage_names()) == {stage.name for stage in (*STAGES, *PAGES)}


def test_job_starts_with_state_of_new_process(starter):
    seen = []
    for _ in range(2):
        status, output, errors = finish(begin("state"), starter)
        assert (status, errors) == (0, "")
        state, drawn = output.splitlines()
        assert re.fullmatch(r"SIG_DFL SIG_DFL SIG_IGN \d True", state)
        seen += drawn.split()
    assert len(set(seen)) == 8


def test_job_reads_code_edited_after_start_of_server(server, folder):
    for value in ("before", "after and longer"):
        (folder / "code" / "ppml" / "edited.py").write_text(f"VALUE = {value!r}\n")
        assert value in finish(begin("print"), server.pid)[1]


def test_killed_job_does_not_affect_another(starter):
    jobs = [begin("sleep"), begin("sleep")]
    first, second = (pid_of(job) for job in jobs)
    jobs[0].kill()
    assert soon(lambda: not alive(first))
    time.sleep(0.3)
    assert alive(second) and jobs[1].poll() is None
    jobs[1].kill()
    assert soon(lambda: not alive(second))


def test_interrupted_job_cleans_up_once(starter, folder):
    # In a terminal, the whole process group gets the signal.
    job = begin("sleep")
    pid = pid_of(job)
    os.kill(job.pid, signal.SIGINT)
    if starter:
        os.kill(pid, signal.SIGINT)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == -signal.SIGINT
    assert errors.startswith("Traceback") and errors.endswith("KeyboardInterrupt\n")
    assert (folder / "cleaned").exists() and not alive(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_job_ends_with_its_client(number, server):
    job = begin("sleep")
    pid = pid_of(job)
    job.send_signal(number)
    assert job.wait(2) == -number
    assert soon(lambda: not alive(pid))


def test_job_ends_with_server_and_next_job_needs_no_server(server):
    job = begin("sleep")
    pid = pid_of(job)
    server.kill()
    assert job.wait(2) == -signal.SIGKILL
    assert soon(lambda: not alive(pid))
    assert finish(begin("exit", "3"), None) == (3, "", "")


@needs_linux
def test_job_starts_after_end_of_server(folder, monkeypatch):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        listener.settimeout(30)
        monkeypatch.setenv(fork_client.ENV_SERVER, listener.getsockname()[1:].decode())
        job = begin("exit", "3")
        listener.accept()[0].close()
        assert finish(job, None) == (3, "", "")


def test_job_of_another_interpreter_runs_in_its_own_process(server, folder):
    assert finish(begin("exit", "3"), server.pid) == (3, "", "")
    code = folder / "code" / "ppml" / "jobs" / "fork_client.py"
    code.write_text(code.read_text().replace("[sys.prefix, sys.version]", "['elsewhere', sys.version]"))
    assert finish(begin("exit", "3"), None) == (3, "", "")


MAIN = r"""
import os, shlex, subprocess, sys, time
from ppml.jobs.fork_server import start
os.environ["PPML_PARENT"] = str(os.getpid())
server = start({}) if sys.argv[1] == "server" else None
command = f"set -euo pipefail; exec {shlex.quote(sys.executable)} -m ppml.jobs overview --spec '[\"sleep\"]' > "
jobs = [subprocess.Popen(f"{command} {name}.log 2>&1", shell=True, executable="/bin/bash") for name in "ab"]
print(*[one.pid for one in [*jobs, server] if one], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["server", "none"])
def test_all_processes_end_with_main_process(kind, number, folder):
    main = subprocess.Popen([sys.executable, "-c", MAIN, kind], stdout=subprocess.PIPE, text=True)
    assert main.stdout
    pids = [int(pid) for pid in main.stdout.readline().split()]
    logs = [folder / "a.log", folder / "b.log"]
    assert soon(lambda: all(log.exists() and "asleep" in log.read_text() for log in logs), 10)
    pids += [int(log.read_text().split()[0]) for log in logs]
    assert all(map(alive, pids))
    main.send_signal(number)
    assert main.wait(2) == -number
    assert soon(lambda: not any(map(alive, pids)), 1)
    assert not (folder / "cleaned").exists()
    if kind == "none":
        assert all(log.read_text().endswith(f"\n{ENDED}") for log in logs)
    assert not list((folder / "temporary").iterdir())


@needs_linux
def test_server_ends_with_main_process(folder):
    code = "from ppml.jobs.fork_server import start; server = start({}); print(server.pid)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert soon(lambda: not alive(int(found.stdout)))


def test_job_without_its_parent_does_not_start(folder, monkeypatch):
    monkeypatch.setenv(parent_watch.ENV_PARENT, "1")
    assert begin("exit", "0").communicate() == ("", ENDED)


@needs_linux
def test_job_of_another_user_is_refused(monkeypatch):
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert fork_client.same_user(ours)
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(PermissionError):
            fork_server.receive(ours)
