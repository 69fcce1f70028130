"""The fork server: a process that imports the slow libraries once, and forks a child process for each job.

It has one thread and computes no result, so that a job starts like a new process after the same imports.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ppml.ipc.parent_watch import exit_with_client
from ppml.jobs.fork_client import ENDED, ENV_SERVER, STARTED, interpreter, same_user
from ppml.jobs.threads import use_one_thread

REQUEST_SECONDS = 5
"""The time limit of a client's request after its connection."""


def start(preload: Mapping[str, Sequence[str]]) -> subprocess.Popen[bytes] | None:
    """Start a server for the jobs of this process, and set its address in the environment; None except on Linux.

    The server ends with this process, or when the result is deleted: then its standard input ends.

    Parameters
    ----------
    preload : mapping
        The preload of :class:`ForkServer`.
    """
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # Linux chooses an abstract address: no file remains.
        listener.bind("")
        listener.listen(128)
        server = subprocess.Popen(
            [sys.executable, "-m", "ppml.jobs.fork_server", str(listener.fileno()), json.dumps(preload)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
        os.environ[ENV_SERVER] = listener.getsockname()[1:].decode()
    return server


class ForkServer:
    """A server that starts jobs and sends their exit statuses to their clients.

    Parameters
    ----------
    listener : socket.socket
        The listening socket.
    preload : mapping
        Stage -> slow third-party modules; each job imports ``ppml`` anew.
    """

    def __init__(self, listener: socket.socket, preload: Mapping[str, Sequence[str]]) -> None:
        self.listener = listener
        self.preload = preload
        self.clients: dict[int, socket.socket] = {}
        # Ctrl-C ends the jobs, and the workflow ends the server.
        self.on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A handler, because a job may end during the imports of another job.
        signal.signal(signal.SIGCHLD, self.report_exit_statuses)

    def serve(self) -> NoReturn:
        """Start jobs until the standard input ends, then kill all jobs and exit."""
        while True:
            ready, _, _ = select.select([0, self.listener.fileno()], [], [])
            if 0 in ready:
                # Without the handler no job is reaped, so that no other process has one of these ids.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for pid in self.clients:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            client, _ = self.listener.accept()
            try:
                pid = self.fork(client)
            except Exception:
                # The client then runs its job itself, and prints the error.
                client.close()
                continue
            self.clients[pid] = client
            self.report_exit_statuses()

    def fork(self, client: socket.socket) -> int:
        """Read a job from ``client``, start it, and return its process id."""
        with contextlib.ExitStack() as stack:
            request, files = receive(client)
            for file in files:
                stack.callback(os.close, file)
            import_modules(self.preload.get(request["stage"], ()))
            # Otherwise the garbage collector of a job copies all memory pages of the server.
            gc.freeze()
            server = os.getpid()
            if pid := os.fork():
                return pid
            try:
                self.listener.close()
                for other in self.clients.values():
                    other.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, interrupt_once if callable(self.on_interrupt) else signal.SIG_IGN)
                apply_job_environment(request, files)
                client.sendall(STARTED)
                exit_with_client(client, server)
                run_and_exit(request["stage"], request["arguments"])
            finally:
                # The job must not return into the server's loop.
                os._exit(1)

    def report_exit_statuses(self, *_: object) -> None:
        """Send the exit statuses of ended jobs to their clients."""
        for pid in list(self.clients):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # a second call during this loop has reaped the job
                continue
            if ended:
                with self.clients.pop(pid) as client, contextlib.suppress(OSError):
                    client.send(ENDED.pack(b"e", status))


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the job of a client and its standard files."""
    if not same_user(client):
        raise PermissionError("another user's job")
    client.settimeout(REQUEST_SECONDS)
    _, files, _, _ = socket.recv_fds(client, 1, 4)
    client.settimeout(None)
    try:
        with os.fdopen(files.pop(), "rb") as file:
            job: dict[str, Any] = marshal.load(file)
        if job["interpreter"] != interpreter():
            raise ValueError("another environment's job")
    except BaseException:
        for number in files:
            os.close(number)
        raise
    return job, files


def import_modules(modules: Iterable[str]) -> None:
    """Import ``modules``; a job repeats a failed import and reports its error."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    # The log of the job excludes the output of the imports.
    sys.stdout.flush()
    sys.stderr.flush()


def apply_job_environment(request: dict[str, Any], files: list[int]) -> None:
    """Set the files, the folder, the environment and the import path of a job, and reset the state of the server."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = request["path"]
    # The job imports `ppml` anew: its code may have changed since the start of the server.
    for name in [name for name in sys.modules if name.partition(".")[0] == "ppml"]:
        del sys.modules[name]
    tempfile.tempdir = None
    # Python's own generator reseeds itself after a fork.
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def interrupt_once(*_: object) -> NoReturn:
    """Raise a KeyboardInterrupt the first time: the terminal and the client may both send the signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def run_and_exit(stage: str, arguments: list[str]) -> NoReturn:
    """Run a stage and exit like Python, but without the exit handlers of the server's libraries."""
    from ppml.jobs.runner import run_stage

    status = 0
    try:
        run_stage(stage, arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120
    if status < 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    use_one_thread()
    ForkServer(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2])).serve()
