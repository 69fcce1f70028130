"""Flower's processes of one site: their environment, their error messages and their end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppml.federation.engines.flower_programs import write_programs

STOP_SECONDS = 10.0
COMMAND_SECONDS = 300.0
"""Seconds that a `flwr` command may take."""

PROXY = re.compile(r"(?i)(no_)?(http|https|all|grpc|ftp|ws|wss)?_?proxy|no_grpc_proxy")
"""Variables for proxies and for exceptions from proxies."""

LAST_LINES = 3
"""Lines of a log in an error message."""

_BORDER = "╭╮╰╯─│┌┐└┘"


class DeploymentFailed(RuntimeError):
    """A process failed, or the run did not complete; the message gives the reason and the log."""


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner can list, for any umask."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def without_proxies(environment: dict[str, str]) -> dict[str, str]:
    """Return ``environment`` without proxies: the processes of a site connect directly.

    Examples
    --------
    >>> without_proxies({"HTTPS_PROXY": "http://a", "all_proxy": "http://b", "HOME": "/root"})
    {'HOME': '/root', 'no_proxy': '*', 'NO_PROXY': '*'}
    """
    kept = {name: value for name, value in environment.items() if not PROXY.fullmatch(name)}
    return {**kept, "no_proxy": "*", "NO_PROXY": "*"}


def flower_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a site's Flower processes, which write only to ``folder``."""
    programs = write_programs(folder / "programs")
    # Flower's processes start programs by name, which must be those of this site and of this Python environment.
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {
        **without_proxies(dict(os.environ)),
        "FLWR_HOME": str(private_folder(folder / "flower")),
        "TMPDIR": str(private_folder(folder / "temporary")),
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    }


def run_flwr(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run a ``flwr`` command, and return its JSON output.

    Raises
    ------
    DeploymentFailed
        The command fails, or does not end; the message contains Flower's.
    """
    command = [str(Path(sys.executable).with_name("flwr")), *arguments, "--format", "json"]
    name = f"`flwr {' '.join(arguments[:2] if arguments[0] == 'supernode' else arguments[:1])}`"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DeploymentFailed(f"{name} did not end within {COMMAND_SECONDS:g} s") from None
    message = unbox(done.stderr) or unbox(done.stdout) or f"exit code {done.returncode}"
    with contextlib.suppress(ValueError):
        output: dict[str, Any] = json.loads(done.stdout)
        if output.get("success", not done.returncode):
            return output
        message = unbox(str(output.get("error-message", output)))
    raise DeploymentFailed(f"{name} failed: {message}")


def unbox(output: str) -> str:
    """Return Flower's output on one line, without the box around an error.

    Examples
    --------
    >>> unbox("Usage: flwr run\\n╭─ Error ───────╮\\n│ Connection    │\\n│ refused.      │\\n╰───────────────╯\\n")
    'Connection refused.'
    """
    lines = output.splitlines()
    inside = [line for line in lines if line.startswith("│")]
    words = [line.strip(f"{_BORDER} ") for line in inside or lines]
    return " ".join(word for word in words if word)


def log_tail(log: Path) -> str:
    """Return the last lines of a log on one line."""
    with contextlib.suppress(OSError):
        lines = [line.strip(f"{_BORDER} ") for line in log.read_text("utf-8", "replace").splitlines()]
        words = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines if line]
        return " ".join(words[-LAST_LINES:])
    return ""


class FlowerProcesses:
    """Processes with a log each in ``folder``, which end with the block, and their children with them."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> FlowerProcesses:
        return self

    def start(
        self, name: str, command: Sequence[str], others: Mapping[str, str], keep_open: Sequence[int] = ()
    ) -> None:
        """Start ``command``, one of the programs, with its output in ``name.log`` and ``others`` in its environment."""
        program = self._folder / "programs" / command[0]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(program), *command[1:]],
                env={**self._environment, **others},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=keep_open,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise an error with the exit code and the last output of a process that has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                log = self._folder / f"{name}.log"
                raise DeploymentFailed(f"{name} ended with exit code {process.poll()}: {log_tail(log)}; see {log}")

    def __exit__(self, *_: object) -> None:
        # Clients first: without their server they would try to reconnect.
        for name in sorted(self._running, key=lambda name: name == "superlink"):
            stop(self._running[name])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process and its children; kill them after `STOP_SECONDS`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
    process.wait()
