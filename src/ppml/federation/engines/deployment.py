"""The apps on Flower's SuperLink and SuperNodes, on one machine, with TLS and a key for each client."""

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
from ppml.federation.engines.namespaces import namespace_command

__all__ = ["DeploymentFailed", "NamespacedProcesses", "run_deployed"]

ANSWER_SECONDS = 600.0
"""Seconds that a round waits for the reply of a client."""

COMMAND = ("-P", "-m", "ppml.federation.engines.namespace_init")
POLL_SECONDS = 0.2


class NamespacedProcesses:
    """Processes in namespaces, which end with the block.

    Parameters
    ----------
    folder : Path
        Folder for their logs and all their files.
    job : dict
        Job of :mod:`ppml.federation.engines.namespace_init`.
    keep_open : sequence of int
        Descriptors that they inherit.
    """

    def __init__(self, folder: Path, job: dict[str, Any], keep_open: Sequence[int] = ()) -> None:
        with (private_folder(folder) / "inside.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*namespace_command(), sys.executable, *COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=keep_open,
                start_new_session=True,
            )
        self._log = folder / "inside.log"
        self._send_line(json.dumps({"folder": str(folder), **job}))

    def __enter__(self) -> NamespacedProcesses:
        return self

    def wait(self, meanwhile: Callable[[], bool] = lambda: True, interval: float = POLL_SECONDS) -> bool:
        """Wait until the processes have ended, or ``meanwhile`` returns False; return whether they have ended.

        Raises
        ------
        DeploymentFailed
            They failed; the message gives the reason.
        """
        while self._process.poll() is None:
            if not meanwhile():
                return False
            time.sleep(interval)
        assert self._process.stdout is not None
        message = self._process.stdout.read().decode("utf-8", "replace").strip()
        if self._process.returncode:
            raise DeploymentFailed(message or f"the processes ended with {self._process.returncode}; see {self._log}")
        return True

    def _send_line(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def __exit__(self, *_: object) -> None:
        self._send_line("end")
        try:
            self._process.wait(timeout=2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # With it all processes of the namespaces end.
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
    """Train with a SuperLink and a SuperNode for each client on this machine; all of them end before the return.

    Parameters
    ----------
    folder : Path
        Empty folder for certificates, keys, Flower's state and a log of each process.
    module : str
        Module of ``server_app`` and ``client_app``, which read the job and write the result.
    job, result : Path
        File that the apps read, and file that the server app writes after each round.
    clients : int
        Number of SuperNodes, with ``partition-id`` 0 and up.
    seconds : float
        Time limit of the run.
    credentials : Credentials or None
        Other credentials than new ones, for tests.

    Raises
    ------
    DeploymentFailed
        The training has not completed.
    UserError
        The system does not allow namespaces.
    """
    namespace_command()
    files = credentials or make_credentials(private_folder(folder) / "credentials", clients)
    result.unlink(missing_ok=True)
    Path(f"{result}{FAULT}").unlink(missing_ok=True)
    nodes = [
        NodeJob(str(job), str(files.authority), str(files.clients[client]), client, clients)
        for client in range(clients)
    ]
    server = ServerJob(
        job=str(job),
        authority=str(files.authority),
        certificate=str(files.certificate),
        key=str(files.key),
        result=str(result),
        public_keys=[str(path.with_suffix(".pub")) for path in files.clients],
        answer_seconds=ANSWER_SECONDS,
        seconds=seconds,
        nodes=nodes,
    )
    with NamespacedProcesses(folder, {"module": module, "server": asdict(server)}) as processes:
        processes.wait()
    if not result.is_file():
        raise DeploymentFailed(f"the run completed without a result; see {folder / 'superlink.log'}")
