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
    """The SHA-256 of files; each file is looked at once in the life of an object.

    Parameters
    ----------
    path : Path
        A cache between runs. If it is missing or damaged, all digests are computed anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, str | None] = {}
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
            self._known = {name: list(entry) for name, entry in read_json(path).items()}

    def sha256(self, name: str) -> str | None:
        """Return the SHA-256 of a file's bytes, None if there is no regular file with this name."""
        if name not in self._seen:
            self._seen[name] = self._compute(name)
        return self._seen[name]

    def forget(self) -> None:
        """Look at each file again: jobs have run meanwhile."""
        self._seen.clear()

    def _compute(self, name: str) -> str | None:
        try:
            stat = Path(name).stat()
        except (OSError, ValueError):  # no file can have this name
            return None
        # Reading a pipe or a device may never end.
        if not S_ISREG(stat.st_mode):
            return None
        # The time of the last change of the inode cannot be set back, unlike that of the content.
        signature = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        entry = self._known.get(name, [])
        if entry[:-1] != signature or not isinstance(entry[-1], str):
            self._known[name] = entry = [*signature, file_sha256(Path(name))]
            self._changed = True
        return str(entry[-1])

    def save(self) -> None:
        """Write the digests of the files that still exist."""
        if self._changed:
            write_text(
                self._path, canonical({name: entry for name, entry in self._known.items() if Path(name).is_file()})
            )
            self._changed = False
