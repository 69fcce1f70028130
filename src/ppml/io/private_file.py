"""Files that their owner alone can read: seeds, keys, tokens, the state of a client."""

from __future__ import annotations

import os
from pathlib import Path

from ppml.io.atomic import atomic


def write_private(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all, for the owner alone from the first byte on."""
    with atomic(path) as temporary:
        # Made anew: a user that has opened the empty file, which others may read, would read on.
        temporary.unlink()
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
