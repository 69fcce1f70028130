"""Train a federation on Ray: ``python -m ppml.stages.ray_training JOB RESULT WORKERS``, in an enclosure."""

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
from ppml.ipc.hardening import seclude
from ppml.stages import federation_job as sites
from ppml.stages import flower_apps as deployed
from ppml.stages.runner import run


def main() -> None:
    """Train, and write what the training comes to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="the file of what is public of the training")
    parser.add_argument("result", help="gets what the training comes to")
    parser.add_argument("workers", type=int, help="how many processes clients run in")
    arguments = parser.parse_args()
    seclude()
    raise_loopback()
    direct = without_proxies(dict(os.environ))
    for name in os.environ.keys() - direct.keys():
        del os.environ[name]
    os.environ.update(direct)
    clients = tuple(range(len(read_json(arguments.job)["sizes"])))
    population = partial(sites.population, arguments.job, clients)
    try:
        deployed.write(arguments.result, run_on_ray(sites.server(arguments.job), population, workers=arguments.workers))
    except RoundFailed as error:
        raise UserError(f"engine ray: {error}") from None


if __name__ == "__main__":
    run(main)
