"""Hardening of a process that holds keys: no core file, and no access to its memory for programs of the same user."""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
"""Options of ``prctl(2)``."""


def harden_process() -> None:
    """Disable core files of this process, and hide its memory from other programs of the same user.

    On Linux other programs of the same user can attach no debugger, and read neither the memory nor the environment;
    the administrator still can. On other systems only core files are disabled.

    Raises
    ------
    OSError
        The system refuses the setting.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"the memory of a process that holds keys cannot be protected: {os.strerror(number)}")


def is_hardened() -> bool:
    """Return whether :func:`harden_process` applies to this process, according to the system."""
    no_core_file = resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    return no_core_file and (sys.platform != "linux" or _libc().prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
