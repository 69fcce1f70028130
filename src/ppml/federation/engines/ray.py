"""The same apps on Flower's own simulation, which runs clients in the processes of Ray."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import replace

from flwr.simulation import run_simulation

from ppml.errors import UserError
from ppml.federation.build import ServerParts
from ppml.federation.client import Population, build_client_app
from ppml.federation.engines.result import Result, reporting_server_app

MISSING = "engine ray: Ray is not installed; `.venv/bin/python -m pip install 'flwr[simulation]==1.41.0'` brings it"

PATIENCE = 60.0
"""Seconds that Ray's processes may take to start."""


def run_on_ray(parts: ServerParts, population: Callable[[], Population], *, workers: int) -> Result:
    """Train on Ray and return what the clients come to.

    Parameters
    ----------
    parts : ServerParts
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
    result = Result()
    waiting = replace(parts, plan=replace(parts.plan, patience=PATIENCE))
    run_simulation(
        reporting_server_app(lambda context: waiting, result, lambda context: None),
        build_client_app(lambda context: population()),
        num_supernodes=parts.plan.clients,
        backend_config={
            "init_args": {"num_cpus": workers, "logging_level": logging.ERROR, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    return result
