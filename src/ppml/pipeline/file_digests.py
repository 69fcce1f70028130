"""What bytes files hold, and which of them a record describes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ppml.io.atomic import read_json, write_json
from ppml.pipeline.safe_paths import sha256


class Fingerprints:
    """SHA-256 of files, computed once for as long as nothing touches them.

    Parameters
    ----------
    path : Path
        Where they are kept between runs; only a cache, and where it is missing or damaged all is computed anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, str | None] | None = None
        with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
            self._known = {name: dict(entry) for name, entry in read_json(path).items()}

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Look at each file once only, while nothing is written: one is asked for by every job that reads it."""
        self._seen = {}
        try:
            yield
        finally:
            self._seen = None

    def sha256(self, name: str) -> str | None:
        """Return the SHA-256 of a file's bytes, None if it is not there, or no file: a folder, a device, a pipe."""
        if self._seen is None:
            return self._look(name)
        if name not in self._seen:
            self._seen[name] = self._look(name)
        return self._seen[name]

    def _look(self, name: str) -> str | None:
        try:
            stat = Path(name).stat()
        except (OSError, ValueError):  # a name that no file can have
            return None
        # Reading a pipe or a device may never end.
        if not S_ISREG(stat.st_mode):
            return None
        # The time of the last change of the inode cannot be set back, unlike that of the content.
        signature = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        entry = self._known.setdefault(name, {})
        if entry.get("signature") != signature:
            entry["sha256"] = sha256(Path(name))
            entry["signature"] = signature
        return str(entry["sha256"])

    def made_by(self, name: str, endtime: float | None) -> bool:
        """Tell whether a job that ended with the file at ``endtime`` made the bytes that are there.

        A record that is new since :meth:`describe` was last called for the file is believed if the file is as old as
        the record says: it was made since, by a run that did not end well enough to save what it knew.
        """
        sha256 = self.sha256(name)
        described = self._known.get(name, {}).get("described")
        if described and described[0] == endtime:
            return bool(described[1] == sha256)
        if endtime is None or Path(name).stat().st_mtime != endtime:
            return False
        self.describe(name)
        return True

    def describe(self, name: str) -> float:
        """Note that a record describes the bytes that are there; return the time that the record shall carry."""
        modified = Path(name).stat().st_mtime
        self._known[name]["described"] = [modified, self.sha256(name)]
        return modified

    def save(self) -> None:
        """Keep what is known of files that are still there."""
        write_json(self._path, {name: entry for name, entry in self._known.items() if Path(name).is_file()})
