"""The clock by which a file system says when a file was changed."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path


def wait_for_a_tick(folder: str | Path) -> None:
    """Wait until a change in ``folder`` has another time than one before: up to 10 ms, by the system's clock."""
    descriptor, name = tempfile.mkstemp(dir=folder)
    try:
        before = os.fstat(descriptor).st_ctime_ns
        while os.fstat(descriptor).st_ctime_ns == before:
            time.sleep(0.001)
            os.utime(descriptor)
    finally:
        os.close(descriptor)
        Path(name).unlink()
