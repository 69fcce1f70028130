"""The same apps as processes on one machine: Flower's SuperLink and SuperNodes, with TLS and a key for each client."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ppml.federation.engines.credentials import Credentials, make_credentials
from ppml.federation.engines.environment import FAULT
from ppml.federation.engines.flower_processes import STOP_SECONDS, DeploymentFailed, private_folder
from ppml.federation.engines.namespace_init import NodeJob, ServerJob
from ppml.federation.engines.namespaces import enclosing

__all__ = ["DeploymentFailed", "Enclosed", "run_deployed"]

ANSWER_SECONDS = 600.0
"""Seconds that a round waits for the answer of a client."""

COMMAND = ("-P", "-m", "ppml.federation.engines.namespace_init")
POLL_SECONDS = 0.2


class Enclosed:
    """Processes in an enclosure, which end with the block.

    Parameters
    ----------
    folder : Path
        Gets their logs and all that they write.
    job : dict
        What they are to do, see :mod:`ppml.federation.engines.namespace_init`.
    keep_open : sequence of int
        Descriptors that they get.
    """

    def __init__(self, folder: Path, job: dict[str, Any], keep_open: Sequence[int] = ()) -> None:
        with (private_folder(folder) / "inside.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*enclosing(), sys.executable, *COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=keep_open,
                start_new_session=True,
            )
        self._log = folder / "inside.log"
        self._say(json.dumps({"folder": str(folder), **job}))

    def __enter__(self) -> Enclosed:
        return self

    def wait(self, meanwhile: Callable[[], bool] = lambda: True, interval: float = POLL_SECONDS) -> bool:
        """Wait until the processes have ended, or ``meanwhile`` returns False; return whether they have ended.

        Raises
        ------
        DeploymentFailed
            They failed; the message says why.
        """
        while self._process.poll() is None:
            if not meanwhile():
                return False
            time.sleep(interval)
        assert self._process.stdout is not None
        said = self._process.stdout.read().decode("utf-8", "replace").strip()
        if self._process.returncode:
            raise DeploymentFailed(said or f"the processes ended with {self._process.returncode}; see {self._log}")
        return True

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def __exit__(self, *_: object) -> None:
        self._say("end")
        try:
            self._process.wait(timeout=2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # Which ends all that run there.
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def run_deployed(
    folder: Path,
    module: str,
    job: Path,
    result: Path,
    clients: int,
    *,
    seconds: float,
    credentials: Credentials | None = None,
) -> None:
    """Train with a SuperLink and a SuperNode for each client on this machine, which leave nothing running.

    Parameters
    ----------
    folder : Path
        Empty; gets certificates, keys, what Flower keeps, and a log for each process.
    module : str
        Has ``server_app`` and ``client_app``, which read the job and write the result.
    job, result : Path
        What the apps read, and what the server app writes after each round.
    clients : int
        How many SuperNodes there are, ``partition-id`` 0 and up.
    seconds : float
        How long the run may take.
    credentials : Credentials or None
        Other ones than those made here, for tests.

    Raises
    ------
    DeploymentFailed
        See there.
    UserError
        This system cannot enclose the processes.
    """
    enclosing()
    known = credentials or make_credentials(private_folder(folder) / "credentials", clients)
    result.unlink(missing_ok=True)
    Path(f"{result}{FAULT}").unlink(missing_ok=True)
    nodes = [
        NodeJob(str(job), str(known.authority), str(known.clients[client]), client, clients)
        for client in range(clients)
    ]
    server = ServerJob(
        job=str(job),
        authority=str(known.authority),
        certificate=str(known.certificate),
        key=str(known.key),
        result=str(result),
        public_keys=[str(path.with_suffix(".pub")) for path in known.clients],
        answer_seconds=ANSWER_SECONDS,
        seconds=seconds,
        nodes=nodes,
    )
    with Enclosed(folder, {"module": module, "server": asdict(server)}) as enclosed:
        enclosed.wait()
    if not result.is_file():
        raise DeploymentFailed(f"the run completed and left no result; see {folder / 'superlink.log'}")
