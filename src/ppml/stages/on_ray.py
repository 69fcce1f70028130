"""Train a federation on Ray: ``python -m ppml.stages.on_ray JOB RESULT WORKERS``, in an enclosure."""

from __future__ import annotations

import argparse
import os
from functools import partial

from ppml.aggregation.secluded import seclude
from ppml.errors import UserError
from ppml.federation.engines.enclosure import raise_loopback
from ppml.federation.engines.processes import without_proxies
from ppml.federation.engines.ray import run_on_ray
from ppml.federation.standing import RoundFailed
from ppml.records.files import read_json
from ppml.stages import deployed, sites
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
