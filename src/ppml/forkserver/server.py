"""The warm server: a process that has imported the slow libraries, and becomes a job by forking, in no time.

It computes nothing and has one thread, so that a job starts like a fresh process that has just imported them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Any, NoReturn

from ppml.forkserver.job_client import ENDED, LENGTH, STARTED, VARIABLE, interpreter, same_user
from ppml.forkserver.preload import NEEDS
from ppml.ipc.parent_watch import die_with_client
from ppml.stages.threads import one_thread

PATIENCE_SECONDS = 5
"""How long a client may take to describe its job: it sends all of it at once."""


def start() -> subprocess.Popen[bytes] | None:
    """Start a server for the jobs of this process, and name it in the environment; None where there can be none.

    It ends when its standard input does: with this process, however that ends, or once the result is dropped.
    """
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # Linux chooses an address that is no file: nothing is left behind.
        listener.bind("")
        listener.listen(128)
        server = subprocess.Popen(
            [sys.executable, "-m", "ppml.forkserver.server", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
        os.environ[VARIABLE] = listener.getsockname()[1:].decode()
    return server


class Server:
    """Starts jobs, and tells their clients how they ended.

    Parameters
    ----------
    listener : socket.socket
        Where clients come.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.clients: dict[int, socket.socket] = {}
        # Control-C is for the jobs; when the server ends, the workflow decides.
        self.on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A handler, because a job may end while libraries are imported for another one.
        signal.signal(signal.SIGCHLD, self.tell)

    def serve(self) -> NoReturn:
        """Start jobs until the standard input ends, and end with all jobs then."""
        while True:
            ready, _, _ = select.select([0, self.listener.fileno()], [], [])
            if 0 in ready:
                # No job is waited for any more, so that none of these numbers can be another process by now.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for pid in self.clients:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            client, _ = self.listener.accept()
            try:
                pid = self.fork(client)
            except Exception:
                # It runs its job itself then, and shows what is wrong.
                client.close()
                continue
            self.clients[pid] = client
            self.tell()

    def fork(self, client: socket.socket) -> int:
        """Read a job from ``client``, start it, and return its process id."""
        with contextlib.ExitStack() as stack:
            request, files = receive(client)
            for file in files:
                stack.callback(os.close, file)
            warm(NEEDS[request["stage"]])
            # A job need not search for garbage, and thereby copy, what is here already.
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
                become(request, files)
                client.sendall(STARTED)
                die_with_client(client, server)
                run_to_the_end(request["stage"], request["arguments"])
            finally:
                # Never back into the server's loop.
                os._exit(1)

    def tell(self, *_: object) -> None:
        """Tell the clients of the jobs that have ended."""
        for pid in list(self.clients):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # the signal came again meanwhile, and this job was told of
                continue
            if ended:
                with self.clients.pop(pid) as client, contextlib.suppress(OSError):
                    client.send(ENDED.pack(b"e", status))


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a client's job and its standard files."""
    if not same_user(client):
        raise PermissionError("another user's job")
    client.settimeout(PATIENCE_SECONDS)
    head, files, _, _ = socket.recv_fds(client, LENGTH.size, 3)
    try:
        (length,) = LENGTH.unpack(head)
        request = b""
        while len(request) < length:
            if not (part := client.recv(length - len(request))):
                raise EOFError
            request += part
        client.settimeout(None)
        job = marshal.loads(request)
        if job["interpreter"] != interpreter():
            raise ValueError("another environment's job")
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return job, files


def warm(modules: Iterable[str]) -> None:
    """Import ``modules``; one that fails is left to the job, which fails likewise."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    # What they printed is not for the job's log.
    sys.stdout.flush()
    sys.stderr.flush()


def become(request: dict[str, Any], files: list[int]) -> None:
    """Take over a client's files and surroundings, and forget what a fresh process does not know."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = request["path"]
    # Our own code is read anew: it may have been edited since the server started.
    for name in [name for name in sys.modules if name.partition(".")[0] == "ppml"]:
        del sys.modules[name]
    tempfile.tempdir = None
    # Python's own generator does so by itself.
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def interrupt_once(*_: object) -> NoReturn:
    """Raise a KeyboardInterrupt, the first time: both the terminal and the client may say it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def run_to_the_end(stage: str, arguments: list[str]) -> NoReturn:
    """Run a stage and end this process as Python ends one, without what the server's libraries do at their end."""
    from ppml.stages.runner import run_stage

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
    one_thread()
    Server(socket.socket(fileno=int(sys.argv[1]))).serve()
