"""A federated training on Ray, in namespaces: ``python -m ppml.stages.ray_training JOB RESULT WORKERS``."""

from __future__ import annotations

import argparse
import os
from functools import partial

from ppml.errors import UserError
from ppml.federation.engines.flower_processes import without_proxies
from ppml.federation.engines.namespaces import raise_loopback
from ppml.federation.engines.ray import run_on_ray
from ppml.federation.server_state import RoundFailed
from ppml.io.atomic import read_json
from ppml.ipc.hardening import harden_process
from ppml.jobs.runner import run
from ppml.stages.federation_job import load_clients, load_server
from ppml.stages.flower_apps import write_result


def main() -> None:
    """Train, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="the public file of the job")
    parser.add_argument("result", help="file for the result of the training")
    parser.add_argument("workers", type=int, help="number of processes for the clients")
    arguments = parser.parse_args()
    harden_process()
    raise_loopback()
    direct = without_proxies(dict(os.environ))
    for name in os.environ.keys() - direct.keys():
        del os.environ[name]
    os.environ.update(direct)
    clients = partial(load_clients, arguments.job, tuple(range(len(read_json(arguments.job)["sizes"]))))
    try:
        write_result(arguments.result, run_on_ray(load_server(arguments.job), clients, workers=arguments.workers))
    except RoundFailed as error:
        raise UserError(f"engine ray: {error}") from None


if __name__ == "__main__":
    run(main)
