"""Processes that end when their parent ends, so that no orphan writes files that the next run makes again."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import socket

ENV_PARENT = "PPML_PARENT"
"""Process id of the workflow, for its jobs; unset, a job runs without a parent watch."""

MESSAGE = b"error: the process that started this job has ended\n"
POLL_SECONDS = 0.2


def exit_with_workflow() -> None:
    """Exit this job as soon as its parent, the process in ``PPML_PARENT``, ends."""
    if parent := os.environ.get(ENV_PARENT):
        exit_with_parent(int(parent), MESSAGE)


def exit_with_parent(parent: int, message: bytes = b"") -> None:
    """Exit this process, with ``message`` on the standard error, as soon as ``parent``, which started it, ends."""
    if os.getppid() != parent:
        _exit(message)

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)

    _exit_after(wait, message)


def exit_with_client(client: socket.socket, server: int) -> None:
    """Exit this job when ``client`` or the fork server ``server`` ends; raise the signals that ``client`` sends."""

    def wait() -> None:
        while os.getppid() == server:
            if select.select([client], [], [], POLL_SECONDS)[0]:
                if not (signals := client.recv(1)):
                    return
                os.kill(os.getpid(), signals[0])

    _exit_after(wait, MESSAGE)


def _exit_after(wait: Callable[[], None], message: bytes) -> None:
    """Exit this process once ``wait`` returns, also in the middle of a calculation."""

    def watch() -> None:
        try:
            wait()
        finally:
            _exit(message)

    threading.Thread(target=watch, daemon=True).start()


def _exit(message: bytes) -> NoReturn:
    try:
        # Not through sys.stderr: the main thread may hold its lock.
        os.write(2, message)
    finally:
        os._exit(1)
