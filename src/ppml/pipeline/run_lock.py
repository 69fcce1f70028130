"""One run at a time in a folder; the lock goes with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar, TextIO

from ppml.errors import UserError
from ppml.system_errors import describe_os_error

RUN = "PPML_RUN"
"""Names, in the environment of jobs, the run that they belong to."""
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 0.5
"""The time to wait for a lock: a job that checks its run holds it for an instant."""


class RunLock:
    """An advisory lock on a file, which the operating system takes back when the process ends, killed or not.

    Snakemake's own lock is a file that stays after a kill, so ``profiles/default`` turns it off in favour of this one.

    Parameters
    ----------
    path : Path
        The file; it names the process that holds the lock.
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
        """Take the lock unless another process holds it; return whether it is held now.

        Raises
        ------
        UserError
            The file cannot be written.
        """
        if self.held:
            return True
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Not inherited by jobs (PEP 446): an orphan holds nothing.
            file = self._path.open("a+", encoding="utf-8")
            if not self._lock(file):
                file.close()
                return False
            run, since = os.urandom(8).hex(), time.strftime("%Y-%m-%d %H:%M:%S")
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": _command()}
            file.truncate(0)
            json.dump({**about, "run": run}, file)
            file.flush()
            # Jobs on other machines read it.
            os.fsync(file.fileno())
        except OSError as error:
            raise UserError(describe_os_error(error)) from None
        self._held[self._path] = file
        os.environ[RUN] = run
        return True

    def _lock(self, file: TextIO) -> bool:
        over = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > over:
                    return False
                time.sleep(PATIENCE_SECONDS / 20)
            except OSError as error:
                print(
                    f"warning: {self._path.parent} cannot be locked ({error.strerror}): make sure that no other run is "
                    "at work in this folder",
                    file=sys.stderr,
                )
                return True

    def exit_when_run_ends(self) -> None:
        """End this process, which a run started for a job, perhaps on another machine, once that run is gone.

        Its jobs end with it (:mod:`ppml.ipc.parent_watch`). Snakemake must not see that they fail: it would remove
        outputs, which may be those of the next run by then.

        Raises
        ------
        UserError
            The run is gone already.
        """
        run = os.environ.get(RUN)
        if run is None:
            return
        if self._is_gone(run):
            raise UserError("the run that this job belongs to is gone; nothing was done")
        threading.Thread(target=self._end_after, args=(run,), daemon=True).start()

    def _end_after(self, run: str) -> None:
        while not self._is_gone(run):
            time.sleep(POLL_SECONDS)
        try:
            os.write(2, b"error: the run that this job belongs to is gone\n")
        finally:
            os._exit(1)

    def _is_gone(self, run: str) -> bool:
        """Tell whether another run has the lock, or, as far as that can be told here, none has it."""
        try:
            with self._path.open(encoding="utf-8") as file:
                about = json.load(file)
                if about["run"] != run:
                    return True
                # Of a lock that another machine holds, not every file system knows.
                if about["host"] != socket.gethostname():
                    return False
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return True
        except FileNotFoundError:
            return True
        except (OSError, ValueError, LookupError):  # it is held, cannot be locked, or is being written
            return False

    def refusal(self) -> str:
        """Return the error for a run beside another one."""
        return f"another run is at work in this folder: {self.holder()}; wait for it, or stop it first"

    def warning(self) -> str:
        """Return the warning for a dry run beside another run."""
        return (
            f"another run is at work in this folder: {self.holder()}; what is shown may be out of date, and what it "
            "removes meanwhile is an error: look again when it has ended"
        )

    def holder(self) -> str:
        """Return one sentence about the process that holds the lock."""
        try:
            about = json.loads(self._path.read_text(encoding="utf-8"))
            return "process {pid} on {host}, since {since}: {command}".format(**about)
        except (OSError, ValueError, KeyError):
            return "a process that has just started or ended"


def _command() -> str:
    program, *arguments = Path(sys.argv[0]), *sys.argv[1:]
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *arguments])
