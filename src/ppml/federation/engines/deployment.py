"""The apps on Flower's SuperLink and SuperNodes, on one machine, with TLS and a key for each client."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ppml.federation.engines.credentials import make_credentials
from ppml.federation.engines.environment import FAULT
from ppml.federation.engines.flower_processes import STOP_SECONDS, DeploymentFailed, private_folder
from ppml.federation.engines.namespace_init import ServerJob
from ppml.federation.engines.namespaces import namespace_command

POLL_SECONDS = 0.2


class NamespacedProcesses:
    """Processes in namespaces, with their files in ``folder``, which end with the block.

    They run the ``job`` of :mod:`ppml.federation.engines.namespace_init`, and inherit the descriptors ``keep_open``.
    """

    def __init__(self, folder: Path, job: dict[str, Any], keep_open: Sequence[int] = ()) -> None:
        with (private_folder(folder) / "inside.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*namespace_command(), sys.executable, "-P", "-m", "ppml.federation.engines.namespace_init"],
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

    def checks(self, interval: float) -> Iterator[None]:
        """Yield every ``interval`` seconds until the processes have ended; an error gives the reason of a failure."""
        while self._process.poll() is None:
            yield
            time.sleep(interval)
        assert self._process.stdout is not None
        message = self._process.stdout.read().decode("utf-8", "replace").strip()
        if self._process.returncode:
            raise DeploymentFailed(message or f"the processes ended with {self._process.returncode}; see {self._log}")

    def _send_line(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def __exit__(self, *_: object) -> None:
        self._send_line("end")
        with contextlib.suppress(BrokenPipeError), self._process:
            try:
                self._process.wait(timeout=2 * STOP_SECONDS)
            except subprocess.TimeoutExpired:
                # With it all processes of the namespaces end.
                self._process.kill()


def start_server(folder: Path, module: str, server: ServerJob) -> NamespacedProcesses:
    """Remove the result of an earlier training, and start a server."""
    for name in (server.result, f"{server.result}{FAULT}"):
        Path(name).unlink(missing_ok=True)
    keep_open = [server.public_socket] if server.public_socket >= 0 else []
    return NamespacedProcesses(folder, {"module": module, "server": asdict(server)}, keep_open)


def run_deployed(
    folder: Path,
    module: str,
    job: Path,
    result: Path,
    clients: int,
    *,
    seconds: float,
    credentials: Path | None = None,
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
    credentials : Path or None
        Folder with other credentials than new ones, for tests.

    Raises
    ------
    DeploymentFailed
        The training has not completed.
    UserError
        The system does not allow namespaces.
    """
    namespace_command()
    files = credentials or make_credentials(private_folder(folder) / "credentials", clients)
    server = ServerJob(str(job), str(result), str(files), clients, seconds, has_nodes=True)
    with start_server(folder, module, server) as processes:
        for _ in processes.checks(POLL_SECONDS):
            pass
    if not result.is_file():
        raise DeploymentFailed(f"the run completed without a result; see {folder / 'superlink.log'}")
