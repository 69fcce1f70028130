"""Flower's programs in a deployment: ``python -m ppml.federation.engines.flower_programs NAME ...``.

They differ from Flower's own in five points. No program can be read by a debugger, or leaves a core dump. A task is a
process that is forked and not started anew: its token is in no command line, which every user of the machine could
read, and a message costs no imports. The program of a client runs the app that is installed at its site, whatever app
the server sends. A node answers every message, also one whose task fails. And where the server is reached from other
machines, a second socket serves the interface of nodes alone.
"""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import contextlib
import importlib
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from ppml.federation.engines.environment import APP, PUBLIC_SOCKET
from ppml.ipc.hardening import harden_process

FOR_NODES = "/v1/fleet/"
"""What the paths of the interface of nodes begin with."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
WebApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def superlink() -> None:
    """Serve all interfaces on the address that the options give, and that of nodes alone on the public socket."""
    import uvicorn
    from flwr.superlink.cli import flower_superlink

    def run(app: WebApp, **options: Any) -> None:
        config = uvicorn.Config(app, **options)
        sockets = [config.bind_socket()]
        if PUBLIC_SOCKET in os.environ:
            sockets.append(socket.socket(fileno=int(os.environ[PUBLIC_SOCKET])))
            config.app = nodes_alone(app, sockets[0].getsockname()[1])
        uvicorn.Server(config).run(sockets=sockets)

    uvicorn.run = run  # type: ignore[assignment]
    flower_superlink()


def nodes_alone(app: WebApp, own_port: int) -> WebApp:
    """Return an app that is ``app`` on the port ``own_port``, and on every other one serves nodes alone."""

    async def chosen(scope: Scope, receive: Receive, send: Send) -> None:
        reached = scope.get("server")
        own = scope["type"] == "lifespan" or (reached is not None and reached[1] == own_port)
        if own or (scope["type"] == "http" and for_nodes(scope["path"])):
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return chosen


def for_nodes(path: str) -> bool:
    """Return whether a path is one that a node calls.

    Examples
    --------
    >>> for_nodes("/v1/fleet/pull-messages"), for_nodes("/v1/control/start-run"), for_nodes("/v1/fleet/../control/x")
    (True, False, False)
    """
    return path.startswith(FOR_NODES) and "/" not in path.removeprefix(FOR_NODES)


def supernode() -> None:
    """Be a node that answers every message."""
    from flwr.supernode.cli import flower_supernode
    from flwr.supernode.nodestate import nodestate_factory

    from ppml.federation.engines.node_state import AnsweringNodeState

    nodestate_factory.InMemoryNodeState = AnsweringNodeState  # type: ignore[attr-defined]
    flower_supernode()


def superexec() -> None:
    """Start a process for each task, forked from one that has imported what a task needs."""
    line, far_end = multiprocessing.Pipe()
    if os.fork() == 0:
        line.close()
        _fork_tasks(far_end)
    far_end.close()
    # A task that is not begun within half a minute is taken for lost.
    line.recv()
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.superexec.executor import subprocess_executor

    def start(command: Sequence[str], **options: Any) -> None:
        line.send((list(command), "stdout" in options))

    replaced = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)
    subprocess_executor.subprocess = replaced  # type: ignore[assignment, attr-defined]
    flower_superexec()


def _fork_tasks(line: Connection) -> NoReturn:
    """Fork a process for each command that comes, until the process that gives them is gone."""
    # The system forgets a process that has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    importlib.import_module(os.environ[APP])
    for module in ("flwr.supernode.cli", "flwr.supernode.runtime.run_clientapp", "flwr.superlink.cli"):
        importlib.import_module(module)
    line.send("ready")
    while True:
        try:
            command, quiet = line.recv()
        except (EOFError, OSError):
            os._exit(0)
        if os.fork() == 0:
            line.close()
            _be_task(command, quiet=quiet)


def _be_task(command: list[str], *, quiet: bool) -> NoReturn:
    """Run the app of a task, and end this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status: object = 1
    try:
        if quiet:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        # Known to this process alone: the command line that the system shows is that of the first process.
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
    """Run the server's app, which is of this site's own making."""
    from flwr.superlink.cli import flwr_serverapp

    flwr_serverapp()


def clientapp() -> None:
    """Run the client's app that is installed here: what the server sends is neither unpacked nor run."""
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
"""Programs that are started by their names; the others are forked."""


def write_programs(folder: Path) -> Path:
    """Write a command for each program into ``folder``, where Flower's processes find it by its name."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in STARTED:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m {__name__} {name} "$@"\n', "utf-8")
        path.chmod(0o700)
    return folder


def main() -> None:
    """Be the program that the first argument names."""
    harden_process()
    sys.argv = sys.argv[1:]
    PROGRAMS[sys.argv[0]]()


if __name__ == "__main__":
    main()
