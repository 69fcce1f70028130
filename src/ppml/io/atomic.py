"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished-"
"""What the name of a file begins with that is being written."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and move it there once the block ends without an error.

    The content is on the disk before the name exists; after an error or a crash, what lay at ``path`` lies there still.

    Raises
    ------
    OSError
        The folder cannot be written, or the disk is full; it names ``path``, and nothing is left behind.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers choose the format by it.
    temporary = target.with_name(f"{UNFINISHED}{os.urandom(4).hex()}-{target.name}")
    try:
        # Made here, so that two writers cannot share it; the permissions are those of any new file.
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        # A full disk names no file, and the name of the temporary one tells nobody anything.
        if error.errno and error.filename in (None, str(temporary)):
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def unfinished_files(folder: str | Path) -> list[Path]:
    """Return the files that :func:`atomic` was writing in a folder when its process was killed."""
    return sorted(path for path in Path(folder).glob(f"{UNFINISHED}*") if path.is_file())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` in UTF-8 to ``path``, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON with sorted keys, so that equal content has equal bytes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
