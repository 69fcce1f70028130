"""A process whose memory no core file gets, and no other program of the same user."""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
"""Of ``prctl(2)``."""


def seclude() -> None:
    """Have the system write no core file of this process, and let no other program read its memory.

    On Linux other programs of the same user may attach no debugger to it, and read neither its memory nor its
    environment; the administrator still may. Elsewhere there is no core file, and the rest is as the system has it.

    Raises
    ------
    OSError
        The system refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"the memory of a process that holds keys cannot be secluded: {os.strerror(number)}")


def is_secluded() -> bool:
    """Return whether :func:`seclude` was called in this process, as the system has it."""
    without_core = resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    return without_core and (sys.platform != "linux" or _libc().prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
