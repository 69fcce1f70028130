"""The job's side of the fork server: submit the job, wait, and exit like it."""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from types import FrameType

ENV_SERVER = "PPML_FORK_SERVER"
"""The environment variable with the address of the server, if any."""

STARTED = b"s"
ENDED = struct.Struct("=ci")
"""The format of the last message: the letter e and the wait status."""


def submit(stage: str, arguments: list[str]) -> int | None:
    """Run a stage on the fork server, and return its wait status; None if the server cannot start it."""
    address = os.environ.get(ENV_SERVER)
    if sys.platform != "linux" or not address:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        interrupted = False

        def forward(number: int, _: FrameType | None) -> None:
            nonlocal interrupted
            interrupted = True
            # A job that has just ended no longer reads.
            with contextlib.suppress(OSError):
                server.sendall(bytes([number]))

        handler = signal.getsignal(signal.SIGINT)
        try:
            server.connect(f"\0{address}")
            if not same_user(server):
                return None
            _send_request(server, _request(stage, arguments))
            # Ctrl-C in a terminal also reaches the job, which handles the first of the two signals.
            signal.signal(signal.SIGINT, forward)
            if server.recv(1) == STARTED:
                return _wait(server)
        except OSError:
            pass
        signal.signal(signal.SIGINT, handler)
        if interrupted:
            raise KeyboardInterrupt
        return None


def exit_like(status: int) -> None:
    """Exit this process with the exit status or the signal of a job."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status))


def same_user(peer: socket.socket) -> bool:
    """Return whether the peer runs as the same user: an abstract socket address has no permissions."""
    credentials = struct.Struct("iII")
    _, user, _ = credentials.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return bool(user == os.getuid())


def interpreter() -> list[str]:
    """Return the properties of Python that must be equal in a job and the server."""
    return [sys.prefix, sys.version]


def _send_request(server: socket.socket, request: dict[str, object]) -> None:
    """Send the standard files and the request, as a file in memory: a message could be too long for the socket."""
    with os.fdopen(os.memfd_create("request"), "w+b") as file:
        marshal.dump(request, file)
        file.seek(0)
        socket.send_fds(server, [b"r"], [0, 1, 2, file.fileno()])


def _request(stage: str, arguments: list[str]) -> dict[str, object]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "interpreter": interpreter(),
        "stage": stage,
        "arguments": arguments,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "umask": umask,
        "path": sys.path,
    }


def _wait(server: socket.socket) -> int:
    try:
        message = server.recv(ENDED.size)
    except OSError:
        message = b""
    # The jobs of a server end with it.
    return int(ENDED.unpack(message)[1]) if len(message) == ENDED.size else int(signal.SIGKILL)
