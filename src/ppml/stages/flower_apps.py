"""The apps that a SuperLink and its SuperNodes run; variables of a site's processes say which files they read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save

from ppml.federation.client import Population
from ppml.federation.client_state import ClientState
from ppml.federation.engines.result import Result, deployed_apps
from ppml.io.atomic import write_bytes, write_json
from ppml.stages.federation_job import population, server


def _own(job: str, client: int) -> Population:
    """Return the population of a SuperNode: one client."""
    return population(job, (client,))


def write(path: str, result: Result) -> None:
    """Write what a training comes to."""
    write_json(
        Path(path),
        {
            "model": result.model,
            "history": [asdict(row) for row in result.history],
            "events": [None if own is None else [event.to_json() for event in own] for own in result.events],
            "notices": result.notices,
        },
    )


def keep(path: str, state: ClientState) -> None:
    """Write the global model as a client knows it in the end."""
    write_bytes(path, save({"weights": torch.from_numpy(state.common.parameters.copy())}))


_apps = deployed_apps(server, _own, write, keep)
# Flower looks for these names in the text of the module.
server_app = _apps[0]
client_app = _apps[1]
