"""A federated training as files: one of what is public, and for each party its seed and its records.

A SuperNode reads its own files alone, and so does the server; the processes of Ray, each of which may be any client,
read those of all clients. The root seed is in no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from ppml.aggregation.factory import build_parties
from ppml.aggregation.interfaces import NO_MATERIAL, ClientSide
from ppml.config.aggregation_parameters import clients_per_round
from ppml.config.arm import Arm
from ppml.config.technique import Bfv, Ckks, Plaintext
from ppml.data.examples import Examples
from ppml.errors import UserError
from ppml.federation.client import ClientPool
from ppml.federation.engines.flower_processes import private_folder
from ppml.federation.factory import FederationSpec, ServerComponents, build_client_pool, build_server, party_seeds
from ppml.io.atomic import read_json, write_bytes, write_json
from ppml.io.private_file import write_private
from ppml.learning.determinism import make_deterministic
from ppml.learning.parameters import flatten, unflatten_into
from ppml.mechanism import Value
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.training import draws_of

JOB = "job.json"
TEST = "test.safetensors"
INITIAL = "initial.safetensors"
SERVER_SEED = "server.seed"


def write_job(
    folder: Path,
    arm: Arm,
    *,
    rng: Randomness,
    data: Sequence[Value],
    classes: int,
    owned: Sequence[Examples],
    test: Examples,
    calibrated: dict[str, Any],
) -> Path:
    """Write what the sites of a training read into ``folder``; return the file of what is public.

    Raises
    ------
    UserError
        Clients would have to remember secrets between messages, as for masks, or to reach helping servers, or a key
        would have to travel: that is only in process. Or failures are simulated.
    """
    if not isinstance(arm.aggregation, Plaintext | Ckks | Bfv):
        raise UserError(
            f"aggregation.kind: got {arm.aggregation.kind!r}; engines other than the one in process take plaintext, "
            "ckks and bfv: their clients remember no secrets from message to message, and reach no helping servers"
        )
    if getattr(arm.aggregation, "keys", "public") != "public":
        raise UserError(
            "aggregation.keys: got 'shared'; engines other than the one in process take public: no secret key travels"
        )
    dropout_rate = getattr(arm.topology, "dropout_rate", 0.0)
    if dropout_rate:
        raise UserError(f"topology.dropout_rate: got {dropout_rate:g}; only the engine in process simulates dropouts")
    job = {
        "arm": arm.technique(),
        "classes": classes,
        "features": owned[0].inputs.shape[-1],
        "sizes": [len(records) for records in owned],
        "noise_multipliers": calibrated.get("noise_multipliers", [None] * len(owned)),
        "budgets": calibrated.get("affordable_steps", [None] * len(owned)),
    }
    private_folder(folder)
    model = build_model(arm.model, classes, rng.child("initial-weights").torch(), job["features"])
    draws, _ = draws_of(arm, job["sizes"], job["noise_multipliers"], job["budgets"], model, rng, data)
    seeds = party_seeds(draws, len(owned))
    write_bytes(folder / INITIAL, save({"weights": torch.from_numpy(flatten(model))}))
    write_seed(folder / SERVER_SEED, seeds.server)
    for client, records in enumerate(owned):
        write_records(folder / records_of(client), records)
        write_seed(folder / seed_of(client), seeds.clients[client])
    write_records(folder / TEST, test)
    write_json(folder / JOB, job)
    return folder / JOB


def records_of(client: int) -> str:
    """Return the name of the file of a client's records."""
    return f"client{client}.safetensors"


def seed_of(client: int) -> str:
    """Return the name of the file of a client's seed."""
    return f"client{client}.seed"


def write_seed(path: Path, seed: Randomness) -> None:
    """Write the seed of a party, readable by its owner alone."""
    assert isinstance(seed.root, bytes)
    write_private(path, seed.root.hex().encode("ascii"))


def read_seed(path: Path) -> Randomness:
    """Return what :func:`write_seed` wrote."""
    return Randomness(bytes.fromhex(path.read_text(encoding="ascii")))


def write_records(path: Path, records: Examples) -> None:
    """Write examples as they are trained on."""
    write_bytes(path, save({"images": records.inputs.contiguous(), "labels": records.labels.contiguous()}))


def read_records(path: Path) -> Examples:
    """Return what :func:`write_records` wrote."""
    tensors = load_file(path)
    return Examples(tensors["images"], tensors["labels"])


def given(job: dict[str, Any]) -> FederationSpec:
    """Return what is public of a training."""
    return FederationSpec(Arm.model_validate(job["arm"]), job["sizes"], job["noise_multipliers"], job["budgets"])


@cache
def population(path: str, clients: tuple[int, ...]) -> ClientPool:
    """Return the clients whose numbers are ``clients``, with the records of nobody else; the same object each time."""
    # Another number of threads gives other bits.
    make_deterministic()
    folder, job = Path(path).parent, read_json(path)
    public = given(job)
    owned = {client: read_records(folder / records_of(client)) for client in clients}
    seeds = {client: read_seed(folder / seed_of(client)) for client in clients}
    test = read_records(folder / TEST)
    return build_client_pool(public, initial_model(path), owned, _side(public, folder), test, seeds)


def _side(public: FederationSpec, folder: Path) -> ClientSide:
    spec, asked = public.arm.aggregation, _asked(public)
    if isinstance(spec, Ckks | Bfv):
        from ppml.aggregation.key_service import client_side

        return client_side(spec, asked, folder)
    return build_parties(spec, asked).clients


def _asked(public: FederationSpec) -> int:
    return clients_per_round(public.topology.participation, len(public.sizes))


def hold_keys(path: str) -> AbstractContextManager[None]:
    """Keep the secret key of a training while a block runs, in a process of its own, where there is one to keep."""
    public = given(read_json(path))
    spec = public.arm.aggregation
    if isinstance(spec, Ckks | Bfv):
        from ppml.aggregation import key_service as key_door

        return key_door.start_key_service(spec, _asked(public), Path(path).parent)
    return nullcontext()


def server(path: str) -> ServerComponents:
    """Return what the server of a training has; it reads no records."""
    job = read_json(path)
    public = given(job)
    material = NO_MATERIAL
    if isinstance(public.arm.aggregation, Ckks | Bfv):
        from ppml.aggregation.key_service import server_material

        material = server_material(Path(path).parent)
    seed = read_seed(Path(path).with_name(SERVER_SEED))
    return build_server(public, flatten(initial_model(path)), material, seed)


def initial_model(path: str) -> torch.nn.Module:
    """Return the model that a training begins with."""
    job = read_json(path)
    model = build_model(given(job).arm.model, job["classes"], torch.Generator(), job["features"])
    weights: torch.Tensor = load_file(Path(path).with_name(INITIAL))["weights"]
    unflatten_into(model, weights.numpy())
    return model
