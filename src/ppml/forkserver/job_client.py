"""A job's side of the warm server: hand the job over, wait, and end as it ended."""

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

VARIABLE = "PPML_WARM"
"""Holds the server's address; unset, there is no server."""

LENGTH = struct.Struct("=Q")
STARTED = b"s"
ENDED = struct.Struct("=ci")
"""The letter e and the wait status."""


def hand_over(stage: str, arguments: list[str]) -> int | None:
    """Have the warm server run a stage, and return its wait status; None where it cannot, and nothing has run."""
    address = os.environ.get(VARIABLE)
    if sys.platform != "linux" or not address:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        interrupted = False

        def pass_on(number: int, _: FrameType | None) -> None:
            nonlocal interrupted
            interrupted = True
            # A job that has just ended no longer listens.
            with contextlib.suppress(OSError):
                server.sendall(bytes([number]))

        before = signal.getsignal(signal.SIGINT)
        try:
            server.connect(f"\0{address}")
            if not same_user(server):
                return None
            request = marshal.dumps(_request(stage, arguments))
            socket.send_fds(server, [LENGTH.pack(len(request))], [0, 1, 2])
            server.sendall(request)
            # Control-C in a terminal reaches the job as well, which takes the first of the two.
            signal.signal(signal.SIGINT, pass_on)
            if server.recv(1) == STARTED:
                return _wait(server)
        except OSError:
            pass
        signal.signal(signal.SIGINT, before)
        if interrupted:
            raise KeyboardInterrupt
        return None


def end_as(status: int) -> None:
    """End this process as the job ended: with the same exit status, or by the same signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status))


def same_user(other: socket.socket) -> bool:
    """Return whether the other end is the same user's, since an address that is no file has no permissions."""
    credentials = struct.Struct("iII")
    _, user, _ = credentials.unpack(other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return bool(user == os.getuid())


def interpreter() -> list[str]:
    """Return what must be the same in a job and in the server that runs it."""
    return [sys.prefix, sys.version]


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
        said = server.recv(ENDED.size)
    except OSError:
        said = b""
    # A server that is gone takes its jobs with it.
    return int(ENDED.unpack(said)[1]) if len(said) == ENDED.size else int(signal.SIGKILL)
