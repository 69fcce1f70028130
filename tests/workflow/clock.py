"""The clock of a file system for the times of changes."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path


def wait_for_clock_tick(folder: str | Path) -> None:
    """Wait until the next change in ``folder`` gets a new time: up to 10 ms."""
    descriptor, name = tempfile.mkstemp(dir=folder)
    try:
        before = os.fstat(descriptor).st_ctime_ns
        while os.fstat(descriptor).st_ctime_ns == before:
            time.sleep(0.001)
            os.utime(descriptor)
    finally:
        os.close(descriptor)
        Path(name).unlink()
