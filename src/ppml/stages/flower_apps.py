"""The apps of a SuperLink and its SuperNodes; environment variables of a site name the files that they read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save

from ppml.federation.client import ClientPool
from ppml.federation.client_state import ClientState
from ppml.federation.engines.result import Result, build_deployed_apps
from ppml.io.atomic import write_bytes, write_json
from ppml.stages.federation_job import load_clients, load_server


def _load_client(job: str, client: int) -> ClientPool:
    """Return the one client of a SuperNode."""
    return load_clients(job, (client,))


def write_result(path: str, result: Result) -> None:
    """Write the result of a training."""
    write_json(
        Path(path),
        {
            "model": result.model,
            "history": [asdict(row) for row in result.history],
            "events": [None if own is None else [event.to_json() for event in own] for own in result.events],
            "notices": result.notices,
        },
    )


def write_final_model(path: str, state: ClientState) -> None:
    """Write a client's last global model."""
    write_bytes(path, save({"weights": torch.from_numpy(state.global_state.parameters.copy())}))


_apps = build_deployed_apps(load_server, _load_client, write_result, write_final_model)
# Flower looks for these names in the text of the module.
server_app = _apps[0]
client_app = _apps[1]
