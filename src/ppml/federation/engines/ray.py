"""The apps on Flower's simulation, which runs clients in Ray processes.

Each Ray process listens, in Ray 2.55 on all interfaces regardless of its options, and a user that can connect runs
code as their owner. So the processes require a token, in a file that only its owner can read, and
:mod:`ppml.stages.ray_training` runs them in namespaces with only the loopback interface.
"""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import atexit
import importlib.util
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from ppml.errors import UserError
from ppml.federation.client import ClientPool, build_client_app
from ppml.federation.engines.result import Result, run_reporting_server
from ppml.federation.factory import ServerComponents
from ppml.io.private_file import write_private

MISSING = "engine ray: Ray is not installed; run `.venv/bin/python -m pip install 'flwr[simulation]==1.41.0'`"

START_SECONDS = 60.0
"""Seconds that the server waits for Ray's processes."""


@cache
def private_session() -> Path:
    """Make a folder for the files of Ray and Flower, with a token that Ray requires.

    It is the same for all trainings of this process, which reads the token once, and is removed at its exit.
    """
    # Only its owner can read this folder, and the paths of sockets in it must be short.
    folder = Path(tempfile.mkdtemp(prefix="ppml-ray-"))
    parent = os.getpid()

    def remove() -> None:
        # Not at the exit of a forked process.
        if os.getpid() == parent:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    write_private(folder / "token", secrets.token_hex(32).encode())
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ.update(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token"), FLWR_HOME=str(folder / "flower")
    )
    return folder


def run_on_ray(parts: ServerComponents, population: Callable[[], ClientPool], *, workers: int) -> Result:
    """Train on Ray, and return the result.

    Parameters
    ----------
    parts : ServerComponents
        Components of the server.
    population : callable
        Returns the clients, in one process the same object at each call; can be pickled.
    workers : int
        Number of processes for the clients, one thread each.

    Raises
    ------
    UserError
        Ray is not installed.
    RoundFailed
        Too few clients replied.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(MISSING)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    folder = private_session()
    result = Result()
    components = replace(parts, settings=replace(parts.settings, connect_timeout=START_SECONDS))
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run_reporting_server(components, grid, result)

    run_simulation(
        app,
        build_client_app(lambda context: population()),
        num_supernodes=parts.settings.clients,
        backend_config={
            "init_args": {
                "num_cpus": workers,
                "logging_level": logging.ERROR,
                "log_to_driver": False,
                "include_dashboard": False,
                "_temp_dir": str(folder / "ray"),
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    return result
