"""One run at a time in a folder; the lock goes with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import ClassVar, TextIO


class RunLock:
    """An advisory lock on a file, which the operating system takes back when the process ends, killed or not.

    Snakemake's own lock is a file that stays after a kill, so ``profiles/default`` turns it off in favour of this one.

    Parameters
    ----------
    path : Path
        The file; it says who holds the lock.
    """

    _held: ClassVar[dict[Path, TextIO]] = {}
    """A process that reads the workflow twice holds the lock once."""

    def __init__(self, path: Path = Path(".snakemake/ppml/lock")) -> None:
        self._path = path.absolute()

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""
        return self._path in self._held

    def take(self) -> bool:
        """Take the lock unless another process holds it; return whether it is held now."""
        if self.held:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not inherited by jobs (PEP 446): an orphan holds nothing.
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            print(
                f"warning: {self._path.parent} cannot be locked ({error.strerror}): make sure that no other run is at "
                "work in this folder",
                file=sys.stderr,
            )
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": _command()}, file)
        file.flush()
        self._held[self._path] = file
        return True

    def refusal(self) -> str:
        """Return what the user reads while another process holds the lock."""
        return f"another run is at work in this folder: {self.holder()}; wait for it, or stop it first"

    def holder(self) -> str:
        """Return one sentence about who holds the lock."""
        try:
            about = json.loads(self._path.read_text(encoding="utf-8"))
            return "process {pid} on {host}, since {since}: {command}".format(**about)
        except (OSError, ValueError, KeyError):
            return "a process that has just started or ended"


def _command() -> str:
    name, *arguments = sys.argv
    return shlex.join([Path(name).name, *arguments])
