"""The part of a site that runs in its enclosure: ``python -m ppml.federation.engines.namespace_init``.

The first line of the standard input says in JSON what to do, and which of the descriptors that are open are for it. A
second line asks for an orderly end; where the input ends, the process that started this one is gone, and all processes
of the enclosure end at once. The standard output gets nothing, or one line: why this ended.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppml.federation.engines.environment import ANSWER_SECONDS, APP, FAULT, JOB, NODES, PUBLIC_SOCKET, RESULT
from ppml.federation.engines.flower_processes import DeploymentFailed, Processes, environment_of, flwr
from ppml.federation.engines.namespaces import raise_loopback
from ppml.federation.engines.tunnel import Address, connected
from ppml.io.atomic import read_json, write_json
from ppml.ipc.hardening import harden_process

NAME = "here"
OWN_PORT, FIRST_NODE_PORT = 9092, 9100
"""Ports within the enclosure, where no other program listens."""

POLL_SECONDS = 1.0
START_SECONDS = 60.0
RESTART_SECONDS = 5.0
AWAY_SECONDS = 180.0
"""How long a node may fail to connect: the server takes it for connected for a minute after its end."""

LIST_SECONDS = 60.0
"""How often Flower is asked whether the server's app still runs."""

FINISHED = "finished"

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
        Files: what is public of the training, the certificate of the server's authority, the node's private key.
    client, clients : int
        The number of the client, and how many there are.
    result : str
        File for what the client knows in the end; empty: none.
    """

    job: str
    authority: str
    key: str
    client: int
    clients: int
    result: str = ""


@dataclass(frozen=True)
class ServerJob:
    """A server, and the nodes that run beside it.

    Parameters
    ----------
    job, authority, certificate, key : str
        Files: what is public of the training, and the server's credentials.
    result : str
        File for the result.
    public_keys : list of str
        File of the public key of each client's node.
    answer_seconds, seconds : float
        How long a client may take to answer, and the whole run.
    public_socket : int
        Descriptor of the socket on which other machines reach the server; -1: none.
    nodes : list of NodeJob
        Those in the same enclosure.
    """

    job: str
    authority: str
    certificate: str
    key: str
    result: str
    public_keys: list[str]
    answer_seconds: float
    seconds: float
    public_socket: int = -1
    nodes: list[NodeJob] = field(default_factory=list)


def train(folder: Path, module: str, server: ServerJob) -> None:
    """Run the server until the training has ended.

    Raises
    ------
    DeploymentFailed
        See there.
    """
    port = OWN_PORT if server.public_socket < 0 else _another_port(server.public_socket)
    address = f"127.0.0.1:{port}"
    environment = environment_of(folder)
    _connect_commands(Path(environment["FLWR_HOME"]), address, server.authority)
    nodes = folder / "nodes.json"
    settings = {APP: module, JOB: server.job, RESULT: server.result, NODES: str(nodes)}
    settings[ANSWER_SECONDS] = str(server.answer_seconds)
    keep_open = [server.public_socket] if server.public_socket >= 0 else []
    if keep_open:
        settings[PUBLIC_SOCKET] = str(server.public_socket)
    with Processes(folder, environment) as processes:
        processes.start("superlink", _superlink(server, port), keep_open=keep_open, others=settings)
        _wait_for(port, processes)
        # What Flower's commands say of a certificate is that there is no connection.
        with connected("server", Address("127.0.0.1", port), ssl.create_default_context(cafile=server.authority)):
            pass
        write_json(nodes, {str(_register(environment, key)): number for number, key in enumerate(server.public_keys)})
        for place, node in enumerate(server.nodes):
            own = _supernode(node, address, FIRST_NODE_PORT + place)
            processes.start(f"supernode{node.client}", own, others=_of_node(node, module))
        run = int(flwr(environment, "run", str(_app(folder / "app", module)), NAME)["run-id"])
        _wait_for_run(environment, run, processes, server, folder)


def be_node(folder: Path, module: str, node: NodeJob, hand_over: int) -> None:
    """Run a node until this process is told to end; start it again where it ends.

    Parameters
    ----------
    folder : Path
        Gets what Flower keeps, and logs.
    module : str
        Has the app.
    node : NodeJob
        Which node it is.
    hand_over : int
        Descriptor on which the process outside gets the socket that leads to the server: outside of the enclosure
        there is a network.

    Raises
    ------
    DeploymentFailed
        The node does not connect.
    """
    leads_out = socket.create_server(("127.0.0.1", OWN_PORT))
    with leads_out, socket.socket(fileno=hand_over) as line:
        socket.send_fds(line, [b"s"], [leads_out.fileno()])
    environment = environment_of(folder)
    begun = time.monotonic()
    while True:
        with Processes(folder, environment) as processes:
            command = _supernode(node, f"localhost:{OWN_PORT}", FIRST_NODE_PORT)
            processes.start("supernode", command, others=_of_node(node, module))
            started = time.monotonic()
            while not processes.ended("supernode"):
                time.sleep(POLL_SECONDS)
            if time.monotonic() - started > AWAY_SECONDS:
                begun = time.monotonic()
            if time.monotonic() - begun > AWAY_SECONDS:
                raise DeploymentFailed(processes.end_of("supernode"))
        time.sleep(RESTART_SECONDS)


def _superlink(server: ServerJob, port: int) -> list[str]:
    return [
        "flower-superlink", "--ssl-ca-certfile", server.authority, "--ssl-certfile", server.certificate,
        "--ssl-keyfile", server.key, "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def _supernode(node: NodeJob, address: str, own_port: int) -> list[str]:
    return [
        "flower-supernode", "--superlink", address, "--root-certificates", node.authority,
        "--auth-supernode-private-key", node.key, "--host", "127.0.0.1", "--port", str(own_port),
        "--node-config", f"partition-id={node.client} num-partitions={node.clients}",
    ]  # fmt: skip


def _of_node(node: NodeJob, module: str) -> dict[str, str]:
    return {APP: module, JOB: node.job, **({RESULT: node.result} if node.result else {})}


def _another_port(public_socket: int) -> int:
    """Return the server's own port, which differs from the public one: that decides what is served."""
    with socket.socket(fileno=os.dup(public_socket)) as public:
        taken: bool = public.getsockname()[1] == OWN_PORT
    return OWN_PORT + taken


def _connect_commands(home: Path, address: str, authority: str) -> None:
    """Tell the ``flwr`` commands where the server is."""
    # A string of TOML may be written as one of JSON.
    text = (
        f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\naddress = "{address}"\n'
        f"root-certificates = {json.dumps(authority)}\n"
    )
    (home / "config.toml").write_text(text, encoding="utf-8")


def _app(folder: Path, module: str) -> Path:
    """Return a Flower app whose components are those of ``module``, which is installed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(module=module), encoding="utf-8")
    (folder / "LICENSE").write_text("MIT\n", encoding="utf-8")
    return folder


def _register(environment: dict[str, str], key: str) -> int:
    """Let the node with a public key connect, and return its identity."""
    return int(flwr(environment, "supernode", "register", key, NAME)["node-id"])


def _wait_for(port: int, processes: Processes) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        processes.check()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(POLL_SECONDS / 5)
    raise DeploymentFailed(f"the SuperLink does not listen on port {port} after {START_SECONDS:g} s")


def _wait_for_run(environment: dict[str, str], run: int, processes: Processes, server: ServerJob, folder: Path) -> None:
    """Wait until the server's app has written its result; ask Flower now and then whether that app still runs."""
    deadline, look = time.monotonic() + server.seconds, time.monotonic() + LIST_SECONDS
    fault = Path(f"{server.result}{FAULT}")
    while time.monotonic() < deadline:
        processes.check()
        if fault.is_file():
            raise DeploymentFailed(f"the training has not completed: {fault.read_text('utf-8')}")
        if _is_complete(server.result):
            return
        if time.monotonic() > look:
            look = time.monotonic() + LIST_SECONDS
            status = flwr(environment, "list", NAME, "--run-id", str(run))["runs"][0]["status"]
            if status.startswith(FINISHED) and not (_is_complete(server.result) or fault.is_file()):
                raise DeploymentFailed(f"the server's app has ended as {status}; see {folder / 'superlink.log'}")
        time.sleep(POLL_SECONDS)
    raise DeploymentFailed(f"the run did not end within {server.seconds:g} s; see {folder}")


def _is_complete(result: str) -> bool:
    return Path(result).is_file() and bool(read_json(result)["model"])


def perform(job: dict[str, Any]) -> None:
    """Do what a line of the standard input says."""
    folder, module = Path(job["folder"]), job["module"]
    if "server" in job:
        nodes = [NodeJob(**node) for node in job["server"].pop("nodes")]
        train(folder, module, ServerJob(**job["server"], nodes=nodes))
    else:
        be_node(folder, module, NodeJob(**job["node"]), job["hand_over"])


def _end_with_input() -> None:
    """Ask this process to end in good order where a line comes, and end all of them where the input ends."""
    if sys.stdin.readline():
        os.kill(os.getpid(), signal.SIGTERM)
    if not sys.stdin.read():
        # The first process of a process namespace: with it all others there end.
        os._exit(1)


def main(arguments: Sequence[str] = ()) -> int:
    """Do the job, and return the exit status."""
    harden_process()
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        raise_loopback()
        perform(job)
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
