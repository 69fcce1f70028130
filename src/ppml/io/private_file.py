"""Files with permissions for their owner only: seeds, keys, tokens, the state of a client."""

from __future__ import annotations

import os
from pathlib import Path

from ppml.io.atomic import atomic_write


def write_private(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically, with permissions for the owner only from the first byte."""
    with atomic_write(path) as temporary:
        # Create a new file: another user may hold the empty one open, and would read the data.
        temporary.unlink()
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
