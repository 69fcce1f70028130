"""The same apps as processes: Flower's SuperLink and SuperNodes, with TLS and a key for each client."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ppml.federation.engines.credentials import Credentials, make_credentials

NAME = "here"
POLL_SECONDS = 1.0
START_SECONDS = 60.0
STOP_SECONDS = 10.0
FINISHED = "finished"
COMPLETED = "finished:completed"

PROJECT = """\
[project]
name = "ppml-sites"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = []

[tool.flwr.app]
publisher = "ppml"

[tool.flwr.app.components]
serverapp = "{module}:server_app"
clientapp = "{module}:client_app"

[tool.flwr.app.config]
job = ""
result = ""
clients = 0
"""


class DeploymentFailed(RuntimeError):
    """A process ended, did not start, or the run did not complete; the message names the file that says why."""


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
    """Train with a SuperLink and a SuperNode a client on this machine, which leave nothing running.

    Parameters
    ----------
    folder : Path
        Empty; gets certificates, keys, what Flower keeps, and a log a process.
    module : str
        Has ``server_app`` and ``client_app``, which read ``job`` and write ``result``, keys of the run's configuration.
    job, result : Path
        What the apps read, and what the server app writes when the training has ended.
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
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = credentials or make_credentials(folder / "credentials", clients)
    port, *own_ports = _free_ports(1 + clients)
    home = _home(folder / "flower", known, port)
    app = _app(folder / "app", module)
    # Flower's processes start others by name, which must be those of the same environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "FLWR_HOME": str(home), "PATH": path, "PYTHONUNBUFFERED": "1"}
    with _Processes(folder, environment) as processes:
        processes.start("superlink", _superlink(known, port))
        _wait_for(port, processes)
        for client in range(clients):
            _flwr(environment, "supernode", "register", str(known.clients[client].with_suffix(".pub")), NAME)
            processes.start(f"supernode{client}", _supernode(known, port, own_ports[client], client, clients))
        config = f'job="{job}" result="{result}" clients={clients}'
        started = _flwr(environment, "run", str(app), NAME, "--run-config", config, "--format", "json")
        _wait_for_run(environment, _run_id(started), processes, seconds, folder)
    if not result.is_file():
        raise DeploymentFailed(f"the run completed and left no result; see {folder / 'superlink.log'}")


def _superlink(known: Credentials, port: int) -> list[str]:
    tls = ["--ssl-ca-certfile", str(known.authority), "--ssl-certfile", str(known.certificate)]
    place = ["--host", "127.0.0.1", "--port", str(port)]
    return [
        "flower-superlink", *tls, "--ssl-keyfile", str(known.key), *place, "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def _supernode(known: Credentials, port: int, own_port: int, client: int, clients: int) -> list[str]:
    return [
        "flower-supernode", "--superlink", f"127.0.0.1:{port}", "--root-certificates", str(known.authority),
        "--auth-supernode-private-key", str(known.clients[client]), "--host", "127.0.0.1", "--port", str(own_port),
        "--node-config", f"partition-id={client} num-partitions={clients}",
    ]  # fmt: skip


def _home(home: Path, known: Credentials, port: int) -> Path:
    """Return a folder for all that Flower keeps, with the address of the SuperLink."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{known.authority}"\n',
        encoding="utf-8",
    )
    return home


def _app(folder: Path, module: str) -> Path:
    """Return a Flower app whose components are those of ``module``, which is installed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(module=module), encoding="utf-8")
    (folder / "LICENSE").write_text("MIT\n", encoding="utf-8")
    return folder


def _free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on now."""
    with _sockets(count) as opened:
        return [one.getsockname()[1] for one in opened]


@contextmanager
def _sockets(count: int) -> Iterator[list[socket.socket]]:
    opened = [socket.socket() for _ in range(count)]
    try:
        for one in opened:
            one.bind(("127.0.0.1", 0))
        yield opened
    finally:
        for one in opened:
            one.close()


def _command(name: str) -> str:
    """Return a program of the environment that this process runs in."""
    return str(Path(sys.executable).with_name(name))


def _flwr(environment: dict[str, str], *arguments: str) -> str:
    """Return what a ``flwr`` command prints."""
    done = subprocess.run(
        [_command("flwr"), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise DeploymentFailed(f"flwr {arguments[0]} failed: {' '.join(last)}")
    return done.stdout


def _run_id(printed: str) -> int:
    """Return the number of the run that `flwr run --format json` has started."""
    said = json.loads(printed)
    if not said.get("success"):
        raise DeploymentFailed(f"flwr run failed: {said.get('error-message', said)}")
    return int(said["run-id"])


def _wait_for(port: int, processes: _Processes) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        processes.check()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(POLL_SECONDS / 5)
    raise DeploymentFailed(f"the SuperLink does not listen on port {port} after {START_SECONDS:g} s")


def _wait_for_run(environment: dict[str, str], run: int, processes: _Processes, seconds: float, folder: Path) -> None:
    """Wait until the run has ended, by its own state: what `flwr run` returns does not tell whether it succeeded."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        processes.check()
        listed = json.loads(_flwr(environment, "list", NAME, "--run-id", str(run), "--format", "json"))
        status = listed["runs"][0]["status"]
        if status.startswith(FINISHED):
            if status != COMPLETED:
                raise DeploymentFailed(f"the run ended as {status}; see {folder / 'superlink.log'}")
            return
        time.sleep(POLL_SECONDS)
    raise DeploymentFailed(f"the run did not end within {seconds:g} s; see {folder}")


class _Processes:
    """Processes with a log each, which are stopped, and their children with them, however the block ends."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> _Processes:
        return self

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start ``command`` with its output in ``name.log``."""
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [_command(command[0]), *command[1:]],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise an error if one has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DeploymentFailed(
                    f"{name} ended with exit code {process.returncode}; see {self._folder / name}.log"
                )

    def __exit__(self, *_: object) -> None:
        # Clients first: they would try to connect again to a server that is gone.
        for name in sorted(self._running, key=lambda name: name == "superlink"):
            _stop(self._running[name])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and end what is left of it and its children."""
    for signal_number in (15, 9):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
