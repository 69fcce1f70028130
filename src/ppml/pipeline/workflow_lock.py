"""The lock of a folder for one run of the workflow; the end of its process releases it, also after a kill."""

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
"""The environment variable that names the run of a job."""
POLL_SECONDS = 1.0
WAIT_SECONDS = 0.5
"""The time to wait for a lock: a job that checks its run holds the lock for an instant."""


class WorkflowLock:
    """An advisory lock on a file; the operating system releases it when the process ends.

    Snakemake's own lock is a file that remains after a kill; ``profiles/default`` turns it off.

    Parameters
    ----------
    path : Path
        The file; it names the process that holds the lock.
    """

    _held: ClassVar[dict[Path, TextIO]] = {}
    """The locks of this process, which may read the workflow twice."""

    def __init__(self, path: Path = Path(".snakemake/ppml/lock")) -> None:
        self._path = path.absolute()

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""
        return self._path in self._held

    def take(self) -> bool:
        """Take the lock unless another process holds it; return whether this process holds it.

        Raises
        ------
        UserError
            The file cannot be written.
        """
        if self.held:
            return True
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Jobs do not inherit the file (PEP 446): an orphaned job holds no lock.
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
        over = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > over:
                    return False
                time.sleep(WAIT_SECONDS / 20)
            except OSError as error:
                print(
                    f"warning: {self._path.parent} cannot be locked ({error.strerror}): make sure that no other run "
                    "uses this folder",
                    file=sys.stderr,
                )
                return True

    def exit_when_run_ends(self) -> None:
        """End this process of a single job, perhaps on another machine, when its run ends.

        Its jobs end with it (:mod:`ppml.ipc.parent_watch`). The Snakemake of this process must not see them fail: it
        would remove outputs that the next run may have made.

        Raises
        ------
        UserError
            The run has ended.
        """
        run = os.environ.get(RUN)
        if run is None:
            return
        if self._has_ended(run):
            raise UserError("the run of this job has ended; the job did not start")
        threading.Thread(target=self._end_after, args=(run,), daemon=True).start()

    def _end_after(self, run: str) -> None:
        while not self._has_ended(run):
            time.sleep(POLL_SECONDS)
        try:
            os.write(2, b"error: the run of this job has ended\n")
        finally:
            os._exit(1)

    def _has_ended(self, run: str) -> bool:
        """Return whether another run holds the lock, or no run holds it as far as this machine can know."""
        try:
            with self._path.open(encoding="utf-8") as file:
                about = json.load(file)
                if about["run"] != run:
                    return True
                # Some file systems do not show the locks of other machines.
                if about["host"] != socket.gethostname():
                    return False
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return True
        except FileNotFoundError:
            return True
        except (OSError, ValueError, LookupError):  # the run holds the lock, or is writing the file
            return False

    def require(self) -> None:
        """Take the lock, or raise a :class:`UserError` if another process holds it."""
        self.take()
        self.require_held()

    def require_held(self) -> None:
        """Raise a :class:`UserError` if another run holds the lock."""
        if not self.held:
            raise UserError(f"another run is at work in this folder: {self.holder()}; wait for it, or stop it first")

    def warning(self) -> str:
        """Return the warning of a dry run during another run."""
        return (
            f"another run is at work in this folder: {self.holder()}; its changes may cause errors, and the result may "
            "be out of date: repeat the command after its end"
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
