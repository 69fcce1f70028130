"""Flower's programs in a deployment: ``python -m ppml.federation.engines.flower_programs NAME ...``.

They differ from Flower's own in five points. All programs are hardened against debuggers and core dumps. A task is a
forked process: its token is in no command line, which every user of the machine could read, and a message costs no
imports. A client runs the app that is installed at its site, and never an app from the server. A node replies to every
message, also to one whose task fails. And a server with nodes on other machines has a second socket that serves only
the API for nodes.
"""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import contextlib
import importlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from ppml.federation.engines.environment import APP, PUBLIC_SOCKET
from ppml.ipc.hardening import harden_process
from ppml.ipc.process import ChildProcess

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

FLEET_API = "/v1/fleet/"
"""Prefix of the paths of the API for nodes."""


def superlink() -> None:
    """Serve all APIs on the address of the options, and only the API for nodes on the public socket."""
    import uvicorn
    from flwr.superlink.cli import flower_superlink

    def run(app: ASGIApp, **options: Any) -> None:
        config = uvicorn.Config(app, **options)
        sockets = [config.bind_socket()]
        if PUBLIC_SOCKET in os.environ:
            sockets.append(socket.socket(fileno=int(os.environ[PUBLIC_SOCKET])))
            config.app = restrict_to_fleet_api(app, sockets[0].getsockname()[1])
        uvicorn.Server(config).run(sockets=sockets)

    uvicorn.run = run  # type: ignore[assignment]
    flower_superlink()


def restrict_to_fleet_api(app: ASGIApp, own_port: int) -> ASGIApp:
    """Return an app that serves all APIs on the port ``own_port``, and only the API for nodes on other ports."""

    async def restricted(scope: Scope, receive: Receive, send: Send) -> None:
        address = scope.get("server")
        own = scope["type"] == "lifespan" or (address is not None and address[1] == own_port)
        if own or (scope["type"] == "http" and is_fleet_path(scope["path"])):
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return restricted


def is_fleet_path(path: str) -> bool:
    """Return whether a path belongs to the API for nodes.

    Examples
    --------
    >>> is_fleet_path("/v1/fleet/pull-messages"), is_fleet_path("/v1/fleet/../control/start-run")
    (True, False)
    """
    return path.startswith(FLEET_API) and "/" not in path.removeprefix(FLEET_API)


def supernode() -> None:
    """Run a node that replies to every message."""
    from flwr.supernode.cli import flower_supernode
    from flwr.supernode.nodestate import nodestate_factory

    from ppml.federation.engines.node_state import AnsweringNodeState

    nodestate_factory.InMemoryNodeState = AnsweringNodeState  # type: ignore[attr-defined]
    flower_supernode()


def superexec() -> None:
    """Start a process for each task, forked from a process that has imported the modules of a task."""
    (commands,) = ChildProcess("tasks", _fork_tasks).connections
    # Wait until it is ready: Flower gives up a task that does not start within 30 seconds.
    commands.recv()
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.superexec.executor import subprocess_executor

    def start(command: Sequence[str], **options: Any) -> None:
        commands.send((list(command), "stdout" in options))

    replacement = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)
    subprocess_executor.subprocess = replacement  # type: ignore[assignment, attr-defined]
    flower_superexec()


def _fork_tasks(connections: list[Connection]) -> NoReturn:
    """Fork a process for each received command, until the sender ends."""
    (commands,) = connections
    # The system reaps ended processes.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    importlib.import_module(os.environ[APP])
    for module in ("flwr.supernode.cli", "flwr.supernode.runtime.run_clientapp", "flwr.superlink.cli"):
        importlib.import_module(module)
    commands.send("ready")
    while True:
        try:
            command, quiet = commands.recv()
        except (EOFError, OSError):
            os._exit(0)
        if os.fork() == 0:
            commands.close()
            _run_task(command, quiet=quiet)


def _run_task(command: list[str], *, quiet: bool) -> NoReturn:
    """Run the app of a task, and end this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status: object = 1
    try:
        if quiet:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        # Only this process sees these arguments: the system shows the command line of the first process.
        sys.argv = command
        PROGRAMS[command[0]]()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def serverapp() -> None:
    """Run the server's app, which this site itself submits."""
    from flwr.superlink.cli import flwr_serverapp

    flwr_serverapp()


def clientapp() -> None:
    """Run the client's app that is installed at this site; an app from the server is neither unpacked nor run."""
    from flwr.supernode.cli import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp

    def installed(*given: object) -> object:
        return importlib.import_module(os.environ[APP]).client_app

    run_clientapp.install_from_fab = lambda *given, **named: None  # type: ignore[assignment, attr-defined]
    run_clientapp.get_load_client_app_fn = lambda **named: installed  # type: ignore[assignment, attr-defined]
    flwr_clientapp()


PROGRAMS: dict[str, Callable[[], None]] = {
    "flower-superlink": superlink,
    "flower-supernode": supernode,
    "flower-superexec": superexec,
    "flwr-serverapp": serverapp,
    "flwr-clientapp": clientapp,
}


STARTED = ("flower-superlink", "flower-supernode", "flower-superexec")
"""Programs that start by name; the others are forked."""


def write_programs(folder: Path) -> Path:
    """Write a command for each program into ``folder``, for Flower's processes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in STARTED:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m {__name__} {name} "$@"\n', "utf-8")
        path.chmod(0o700)
    return folder


def main() -> None:
    """Run the program that the first argument names."""
    harden_process()
    sys.argv = sys.argv[1:]
    PROGRAMS[sys.argv[0]]()


if __name__ == "__main__":
    main()
