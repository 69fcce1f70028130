"""The first process of a site's namespaces: ``python -m ppml.federation.engines.namespace_init``.

The first line of the standard input is the job in JSON, with its open descriptors. A second line requests an orderly
end. The end of the input means that the process outside has ended, and all processes of the namespaces end at once. The
standard output gets one line after a failure: its reason.
"""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppml.federation.engines.credentials import AUTHORITY, CERTIFICATE, KEY, client_key
from ppml.federation.engines.environment import ANSWER_SECONDS, APP, FAULT, JOB, NODES, PUBLIC_SOCKET, RESULT
from ppml.federation.engines.flower_processes import DeploymentFailed, FlowerProcesses, flower_environment, run_flwr
from ppml.federation.engines.namespaces import raise_loopback
from ppml.federation.engines.tunnel import Address, connect_tls
from ppml.io.atomic import read_json, write_json
from ppml.ipc.hardening import harden_process

NAME = "here"
OWN_PORT, FIRST_NODE_PORT = 9092, 9100
"""Ports within the namespaces, where no other program listens."""

POLL_SECONDS = 1.0
START_SECONDS = 60.0
RESTART_SECONDS = 5.0
CONNECT_SECONDS = 180.0
"""Seconds that a node may fail to connect: the server keeps it as connected for a minute after its end."""

LIST_SECONDS = 60.0
"""Seconds between two checks whether Flower still runs the server's app."""

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
"""


@dataclass(frozen=True)
class NodeJob:
    """A node of one client.

    Parameters
    ----------
    job, authority, key : str
        Files: the public file of the training, the certificate of the server's authority, the node's private key.
    client, clients : int
        Number of the client, and of all clients.
    result : str
        File for the client's last model; empty: none.
    """

    job: str
    authority: str
    key: str
    client: int
    clients: int
    result: str = ""


@dataclass(frozen=True)
class ServerJob:
    """A server.

    Parameters
    ----------
    job, result : str
        Files: the public file of the training, and the result.
    credentials : str
        Folder with the server's credentials and the public keys of the clients.
    clients : int
        Number of clients.
    seconds, answer_seconds : float
        Time limits of the run and of a client's reply.
    public_socket : int
        Descriptor of the listening socket for other machines; -1: none.
    has_nodes : bool
        Whether the nodes of all clients run in the same namespaces.
    """

    job: str
    result: str
    credentials: str
    clients: int
    seconds: float
    answer_seconds: float = 600.0
    public_socket: int = -1
    has_nodes: bool = False


def run_superlink(folder: Path, module: str, server: ServerJob) -> None:
    """Run the server until the end of the training.

    Raises
    ------
    DeploymentFailed
        The training has not completed.
    """
    port = OWN_PORT if server.public_socket < 0 else _internal_port(server.public_socket)
    address = f"127.0.0.1:{port}"
    environment, credentials = flower_environment(folder), Path(server.credentials)
    authority, nodes = str(credentials / AUTHORITY), folder / "nodes.json"
    _write_flwr_config(Path(environment["FLWR_HOME"]), address, authority)
    settings = {APP: module, JOB: server.job, RESULT: server.result, NODES: str(nodes)}
    settings[ANSWER_SECONDS] = str(server.answer_seconds)
    keep_open = [server.public_socket] if server.public_socket >= 0 else []
    if keep_open:
        settings[PUBLIC_SOCKET] = str(server.public_socket)
    with FlowerProcesses(folder, environment) as processes:
        processes.start("superlink", _superlink(credentials, port), settings, keep_open)
        _wait_for(port, processes)
        # Flower's commands report a bad certificate only as a missing connection.
        with connect_tls("server", Address("127.0.0.1", port), ssl.create_default_context(cafile=authority)):
            pass
        keys = [client_key(credentials, client) for client in range(server.clients)]
        write_json(nodes, {str(_register(environment, key.with_suffix(".pub"))): one for one, key in enumerate(keys)})
        for client, key in enumerate(keys if server.has_nodes else []):
            node = NodeJob(server.job, authority, str(key), client, server.clients)
            _start_node(processes, f"supernode{client}", node, module, address, FIRST_NODE_PORT + client)
        run = int(run_flwr(environment, "run", str(_write_app(folder / "app", module)), NAME)["run-id"])
        _wait_for_run(environment, run, processes, server, folder)


def run_supernode(folder: Path, module: str, node: NodeJob, channel: int) -> None:
    """Run a node until this process is stopped, and restart it when it ends.

    The descriptor ``channel`` sends a listening socket to the process outside, which forwards its connections to the
    server: only outside there is a network.

    Raises
    ------
    DeploymentFailed
        The node does not connect.
    """
    listener = socket.create_server(("127.0.0.1", OWN_PORT))
    with listener, socket.socket(fileno=channel) as outside:
        socket.send_fds(outside, [b"s"], [listener.fileno()])
    environment = flower_environment(folder)
    begun = time.monotonic()
    while True:
        with FlowerProcesses(folder, environment) as processes:
            _start_node(processes, "supernode", node, module, f"localhost:{OWN_PORT}", FIRST_NODE_PORT)
            started = time.monotonic()
            try:
                while True:
                    processes.check()
                    time.sleep(POLL_SECONDS)
            except DeploymentFailed:
                if time.monotonic() - started > CONNECT_SECONDS:
                    begun = time.monotonic()
                if time.monotonic() - begun > CONNECT_SECONDS:
                    raise
        time.sleep(RESTART_SECONDS)


def _superlink(credentials: Path, port: int) -> list[str]:
    return [
        "flower-superlink", "--ssl-ca-certfile", str(credentials / AUTHORITY),
        "--ssl-certfile", str(credentials / CERTIFICATE), "--ssl-keyfile", str(credentials / KEY),
        "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def _start_node(processes: FlowerProcesses, name: str, node: NodeJob, module: str, address: str, own_port: int) -> None:
    command = [
        "flower-supernode", "--superlink", address, "--root-certificates", node.authority,
        "--auth-supernode-private-key", node.key, "--host", "127.0.0.1", "--port", str(own_port),
        "--node-config", f"partition-id={node.client} num-partitions={node.clients}",
    ]  # fmt: skip
    result = {RESULT: node.result} if node.result else {}
    processes.start(name, command, {APP: module, JOB: node.job, **result})


def _internal_port(public_socket: int) -> int:
    """Return the internal port, which must differ from the public one: the port selects the served APIs."""
    with socket.socket(fileno=os.dup(public_socket)) as public:
        taken: bool = public.getsockname()[1] == OWN_PORT
    return OWN_PORT + taken


def _write_flwr_config(home: Path, address: str, authority: str) -> None:
    """Write the server's address for the ``flwr`` commands."""
    # A JSON string is also a TOML string.
    text = (
        f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\naddress = "{address}"\n'
        f"root-certificates = {json.dumps(authority)}\n"
    )
    (home / "config.toml").write_text(text, encoding="utf-8")


def _write_app(folder: Path, module: str) -> Path:
    """Return a Flower app with the components of ``module``, which is installed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(module=module), encoding="utf-8")
    (folder / "LICENSE").write_text("MIT\n", encoding="utf-8")
    return folder


def _register(environment: dict[str, str], public_key: Path) -> int:
    """Register the public key of a node, and return the node's identifier."""
    return int(run_flwr(environment, "supernode", "register", str(public_key), NAME)["node-id"])


def _wait_for(port: int, processes: FlowerProcesses) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        processes.check()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(POLL_SECONDS / 5)
    raise DeploymentFailed(f"the SuperLink does not listen on port {port} after {START_SECONDS:g} s")


def _wait_for_run(
    environment: dict[str, str], run: int, processes: FlowerProcesses, server: ServerJob, folder: Path
) -> None:
    """Wait for the result of the server's app; check regularly whether Flower still runs that app."""
    deadline, check = time.monotonic() + server.seconds, time.monotonic() + LIST_SECONDS
    fault = Path(f"{server.result}{FAULT}")
    while time.monotonic() < deadline:
        processes.check()
        if fault.is_file():
            raise DeploymentFailed(f"the training has not completed: {fault.read_text('utf-8')}")
        if _is_complete(server.result):
            return
        if time.monotonic() > check:
            check = time.monotonic() + LIST_SECONDS
            status = run_flwr(environment, "list", NAME, "--run-id", str(run))["runs"][0]["status"]
            if status.startswith("finished") and not (_is_complete(server.result) or fault.is_file()):
                raise DeploymentFailed(f"the server's app has ended as {status}; see {folder / 'superlink.log'}")
        time.sleep(POLL_SECONDS)
    raise DeploymentFailed(f"the run did not end within {server.seconds:g} s; see {folder}")


def _is_complete(result: str) -> bool:
    return Path(result).is_file() and bool(read_json(result)["model"])


def run_job(job: dict[str, Any]) -> None:
    """Run the job of the first line of the standard input."""
    folder, module = Path(job["folder"]), job["module"]
    if "server" in job:
        run_superlink(folder, module, ServerJob(**job["server"]))
    else:
        run_supernode(folder, module, NodeJob(**job["node"]), job["channel"])


def _end_with_input() -> None:
    """Terminate this process after a second line of the input, and kill all processes at the end of the input."""
    if sys.stdin.readline():
        os.kill(os.getpid(), signal.SIGTERM)
    if not sys.stdin.read():
        # This is the first process of a process namespace: all others end with it.
        os._exit(1)


def main() -> int:
    """Run the job, and return the exit status."""
    harden_process()
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        raise_loopback()
        run_job(job)
    except (DeploymentFailed, OSError) as error:
        print(error, flush=True)
        return 1
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
