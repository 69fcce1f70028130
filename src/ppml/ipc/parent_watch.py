"""A job ends when the process that it runs for is gone, so that no orphan writes what the next run makes again."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import socket

VARIABLE = "PPML_PARENT"
"""Holds the id of the process that starts the jobs; unset, a job depends on nobody."""

POLL_SECONDS = 0.2


def die_with_parent() -> None:
    """End this process as soon as its parent, which ``PPML_PARENT`` names, is gone."""
    if not (expected := os.environ.get(VARIABLE)):
        return
    parent = int(expected)
    if os.getppid() != parent:
        _end()

    def parent_is_gone() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)

    _end_after(parent_is_gone)


def die_with_client(client: socket.socket, server: int) -> None:
    """End this process as soon as ``client`` or its parent ``server`` is gone; raise what signals ``client`` sends."""

    def either_is_gone() -> None:
        while os.getppid() == server:
            if select.select([client], [], [], POLL_SECONDS)[0]:
                if not (said := client.recv(1)):
                    return
                os.kill(os.getpid(), said[0])

    _end_after(either_is_gone)


def _end_after(wait: Callable[[], None]) -> None:
    """End this process once ``wait`` returns, wherever its main thread is then."""

    def watch() -> None:
        try:
            wait()
        finally:
            _end()

    threading.Thread(target=watch, daemon=True).start()


def _end() -> NoReturn:
    try:
        # Not by sys.stderr, which the main thread may hold.
        os.write(2, b"error: the process that started this job is gone\n")
    finally:
        os._exit(1)
