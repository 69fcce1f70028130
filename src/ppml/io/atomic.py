"""Atomic writes: a file is complete or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMP_PREFIX = ".unfinished-"
"""Prefix of the names of temporary files."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and move the file to ``path`` at the end of a block without errors.

    The content is on the disk before the move. After an error or a crash, ``path`` keeps its previous content.

    Raises
    ------
    OSError
        The folder is not writable, or the disk is full. The error names ``path``; the temporary file is removed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Keep the suffix last: some writers choose the format by it.
    temporary = target.with_name(f"{TEMP_PREFIX}{os.urandom(4).hex()}-{target.name}")
    try:
        # Create the file exclusively, so that two writers cannot share it, with the default permissions.
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        # The error of a full disk names no file, and the name of the temporary file does not help the user.
        if error.errno and error.filename in (None, str(temporary)):
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def leftover_temp_files(folder: str | Path) -> list[Path]:
    """Return the temporary files of killed processes in a folder, written by :func:`atomic_write`."""
    return sorted(path for path in Path(folder).glob(f"{TEMP_PREFIX}*") if path.is_file())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` in UTF-8 to ``path`` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON with sorted keys, so that equal content has equal bytes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
