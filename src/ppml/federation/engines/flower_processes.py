"""Flower's processes of one site: what they are started with, what they say when they fail, and their end."""

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
"""How long a `flwr` command may take."""

PROXY = re.compile(r"(?i)(no_)?(http|https|all|grpc|ftp|ws|wss)?_?proxy|no_grpc_proxy")
"""The variables that send connections by way of another machine, and those that make exceptions."""

LAST_LINES = 3
"""How many lines of a log tell why a process has ended."""

_BORDER = "╭╮╰╯─│┌┐└┘"


class DeploymentFailed(RuntimeError):
    """A process ended, did not start, or the run did not complete; the message says why and names the log."""


def private_folder(folder: Path) -> Path:
    """Make a folder that its owner alone can list, whatever the umask."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def without_proxies(environment: dict[str, str]) -> dict[str, str]:
    """Return ``environment`` with every connection direct: the processes of a site talk to each other.

    Examples
    --------
    >>> without_proxies({"HTTPS_PROXY": "http://a", "all_proxy": "http://b", "HOME": "/root"})
    {'HOME': '/root', 'no_proxy': '*', 'NO_PROXY': '*'}
    """
    kept = {name: value for name, value in environment.items() if not PROXY.fullmatch(name)}
    return {**kept, "no_proxy": "*", "NO_PROXY": "*"}


def environment_of(folder: Path, **others: str) -> dict[str, str]:
    """Return what Flower's processes of a site are started with; all that they write lies in ``folder``.

    Parameters
    ----------
    folder : Path
        Gets programs, what Flower keeps, and temporary files.
    **others : str
        Further variables.
    """
    programs = write_programs(folder / "programs")
    # Flower's processes start others by name, which must be those of this site, and of the same environment.
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {
        **without_proxies(dict(os.environ)),
        "FLWR_HOME": str(private_folder(folder / "flower")),
        "TMPDIR": str(private_folder(folder / "temporary")),
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        **others,
    }


def flwr(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Return what a ``flwr`` command answers in JSON.

    Raises
    ------
    DeploymentFailed
        The command fails, or does not end; the message has the text that Flower gives.
    """
    command = [str(Path(sys.executable).with_name("flwr")), *arguments, "--format", "json"]
    name = f"`flwr {' '.join(arguments[:2] if arguments[0] == 'supernode' else arguments[:1])}`"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DeploymentFailed(f"{name} did not end within {COMMAND_SECONDS:g} s") from None
    said = boxed(done.stderr) or boxed(done.stdout) or f"exit code {done.returncode}"
    with contextlib.suppress(ValueError):
        answer: dict[str, Any] = json.loads(done.stdout)
        if answer.get("success", not done.returncode):
            return answer
        said = boxed(str(answer.get("error-message", answer)))
    raise DeploymentFailed(f"{name} failed: {said}")


def boxed(output: str) -> str:
    """Return what Flower says, on one line, without the box that it draws around an error.

    Examples
    --------
    >>> boxed("Usage: flwr run\\n╭─ Error ───────╮\\n│ Connection    │\\n│ refused.      │\\n╰───────────────╯\\n")
    'Connection refused.'
    """
    lines = output.splitlines()
    inside = [line for line in lines if line.startswith("│")]
    words = [line.strip(f"{_BORDER} ") for line in inside or lines]
    return " ".join(word for word in words if word)


def last_lines(log: Path) -> str:
    """Return the end of a log on one line."""
    with contextlib.suppress(OSError):
        lines = [line.strip(f"{_BORDER} ") for line in log.read_text("utf-8", "replace").splitlines()]
        said = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines if line]
        return " ".join(said[-LAST_LINES:])
    return ""


class Processes:
    """Processes with a log each, which are stopped, and their children with them, however the block ends.

    Parameters
    ----------
    folder : Path
        Gets the logs.
    environment : dict of str to str
        What each process is started with.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        keep_open: Sequence[int] = (),
        others: Mapping[str, str] | None = None,
    ) -> None:
        """Start ``command``, one of the programs, with its output in ``name.log`` and ``others`` in its environment."""
        program = self._folder / "programs" / command[0]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(program), *command[1:]],
                env={**self._environment, **(others or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=keep_open,
                start_new_session=True,
            )

    def ended(self, name: str) -> bool:
        """Return whether a process has ended."""
        return self._running[name].poll() is not None

    def check(self) -> None:
        """Raise an error if a process has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DeploymentFailed(self.end_of(name))

    def end_of(self, name: str) -> str:
        """Return how a process has ended, and what it said."""
        log = self._folder / f"{name}.log"
        how = f"{name} ended with exit code {self._running[name].poll()}"
        return f"{how}: {last_lines(log)}; see {log}"

    def __exit__(self, *_: object) -> None:
        # Clients first: they would try to connect again to a server that is gone.
        for name in sorted(self._running, key=lambda name: name == "superlink"):
            stop(self._running[name])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and end what is left of it and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
    process.wait()
