"""The same apps on Flower's own simulation, which runs clients in the processes of Ray.

Each of Ray's processes listens, in Ray 2.55 on all interfaces whatever it is told, and a user that may join them runs
code as their owner. So they ask for a token, which is in a file for its owner alone, and
:mod:`ppml.stages.ray_training` runs all of them in an enclosure, which has the loopback interface alone.
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

from flwr.simulation import run_simulation

from ppml.errors import UserError
from ppml.federation.client import ClientPool, build_client_app
from ppml.federation.engines.result import Result, reporting_server_app
from ppml.federation.factory import ServerComponents
from ppml.io.private_file import write_private

MISSING = "engine ray: Ray is not installed; `.venv/bin/python -m pip install 'flwr[simulation]==1.41.0'` brings it"

PATIENCE = 60.0
"""Seconds that Ray's processes may take to start."""


@cache
def private_session() -> Path:
    """Return a folder for all that Ray and Flower write, and have Ray ask for a token that is in it.

    It is the same for all trainings of this process, which reads the token once, and is removed with the process.
    """
    # Of a random name, for its owner alone; a path in it is that of a socket, and must be short.
    folder = Path(tempfile.mkdtemp(prefix="ppml-ray-"))
    parent = os.getpid()

    # Not with a process that was forked.
    def remove() -> None:
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
    """Train on Ray and return what the clients come to.

    Parameters
    ----------
    parts : ServerComponents
        What the server has.
    population : callable
        Returns the clients, the same object each time it is asked in one process; can be pickled.
    workers : int
        How many processes clients run in, one thread each.

    Raises
    ------
    UserError
        Ray is not installed.
    RoundFailed
        Too few clients answered.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(MISSING)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    folder = private_session()
    result = Result()
    waiting = replace(parts, plan=replace(parts.plan, patience=PATIENCE))
    run_simulation(
        reporting_server_app(lambda context: waiting, result),
        build_client_app(lambda context: population()),
        num_supernodes=parts.plan.clients,
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
