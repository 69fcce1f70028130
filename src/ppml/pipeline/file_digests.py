"""The SHA-256 of files, computed once as long as a file does not change."""

from __future__ import annotations

import contextlib
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ppml.io.atomic import read_json, write_text
from ppml.io.canonical_json import canonical
from ppml.io.digests import file_sha256


class FileDigests:
    """The SHA-256 of files; an object examines each file once.

    Parameters
    ----------
    path : Path
        A cache between runs. If it is missing or damaged, all digests are computed anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._examined: dict[str, str | None] = {}
        self._cache: dict[str, list[Any]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
            self._cache = {name: list(entry) for name, entry in read_json(path).items()}

    def sha256(self, name: str) -> str | None:
        """Return the SHA-256 of a file's bytes, None if there is no regular file with this name."""
        if name not in self._examined:
            self._examined[name] = self._compute(name)
        return self._examined[name]

    def reload(self) -> None:
        """Examine each file again after jobs."""
        self._examined.clear()

    def _compute(self, name: str) -> str | None:
        try:
            stat = Path(name).stat()
        except (OSError, ValueError):  # also an impossible name
            return None
        # Reading a pipe or a device may never end.
        if not S_ISREG(stat.st_mode):
            return None
        # A user can set the time of the content, and not the time of the inode.
        signature = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        entry = self._cache.get(name, [])
        if entry[:-1] != signature or not isinstance(entry[-1], str):
            self._cache[name] = entry = [*signature, file_sha256(Path(name))]
            self._changed = True
        return str(entry[-1])

    def save(self) -> None:
        """Write the digests of the files that still exist."""
        if self._changed:
            existing = {name: entry for name, entry in self._cache.items() if Path(name).is_file()}
            write_text(self._path, canonical(existing))
            self._changed = False
