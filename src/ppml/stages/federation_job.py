"""The files of a federated training on another engine: one public file, and for each party its seed and examples.

A SuperNode reads only its own files, and so does the server. Each Ray process may run any client, and reads the files
of all clients. No file contains the root seed.
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
from ppml.aggregation_parameters import clients_per_round
from ppml.config.arm import Arm
from ppml.config.technique import Bfv, Ckks, Plaintext
from ppml.contract import DataContract
from ppml.data.examples import Examples
from ppml.errors import UserError
from ppml.federation.client import ClientPool
from ppml.federation.engines.flower_processes import private_folder
from ppml.federation.factory import FederationSpec, ServerComponents, build_client_pool, build_server, party_seeds
from ppml.io.atomic import read_json, write_bytes, write_json
from ppml.io.private_file import write_private
from ppml.jobs.threads import make_deterministic
from ppml.learning.parameters import flatten, unflatten_into
from ppml.mechanism import Value
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.training import draws_of

JOB = "job.json"
TEST = "test.safetensors"
INITIAL = "initial.safetensors"
SERVER_SEED = "server.seed"


def write_federation_job(
    folder: Path,
    arm: Arm,
    *,
    rng: Randomness,
    data: Sequence[Value],
    contract: DataContract,
    owned: Sequence[Examples],
    test: Examples,
    calibrated: dict[str, Any],
) -> Path:
    """Write the files of a training into ``folder``, and return the public one.

    Raises
    ------
    UserError
        The aggregation needs a client memory (masking), share servers, or a shared secret key; or the topology
        simulates dropouts. Only the in-process engine supports these.
    """
    if not isinstance(arm.aggregation, Plaintext | Ckks | Bfv):
        raise UserError(
            f"aggregation.kind: got {arm.aggregation.kind!r}; other engines than the in-process one support plaintext, "
            "ckks and bfv: their clients keep no secrets between messages, and have no connection to share servers"
        )
    if getattr(arm.aggregation, "keys", "public") != "public":
        raise UserError(
            "aggregation.keys: got 'shared'; other engines than the in-process one support public: they send no secret "
            "key to a client"
        )
    dropout_rate = getattr(arm.topology, "dropout_rate", 0.0)
    if dropout_rate:
        raise UserError(f"topology.dropout_rate: got {dropout_rate:g}; only the in-process engine simulates dropouts")
    job = {
        "arm": arm.technique(),
        "contract": contract.to_json(),
        "sizes": [len(examples) for examples in owned],
        "noise_multipliers": calibrated.get("noise_multipliers", [None] * len(owned)),
        "affordable_steps": calibrated.get("affordable_steps", [None] * len(owned)),
    }
    private_folder(folder)
    model = build_model(arm.model, contract, rng.child("initial-weights").torch())
    draws, _ = draws_of(arm, job["sizes"], job["noise_multipliers"], job["affordable_steps"], model, rng, data)
    seeds = party_seeds(draws, len(owned))
    write_bytes(folder / INITIAL, save({"weights": torch.from_numpy(flatten(model))}))
    write_seed(folder / SERVER_SEED, seeds.server)
    for client, examples in enumerate(owned):
        write_client_examples(folder / examples_file(client), examples)
        write_seed(folder / seed_file(client), seeds.clients[client])
    write_client_examples(folder / TEST, test)
    write_json(folder / JOB, job)
    return folder / JOB


def examples_file(client: int) -> str:
    """Return the name of the file of a client's examples."""
    return f"client{client}.safetensors"


def seed_file(client: int) -> str:
    """Return the name of the file of a client's seed."""
    return f"client{client}.seed"


def write_seed(path: Path, seed: Randomness) -> None:
    """Write the seed of a party to a file that only its owner can read."""
    assert isinstance(seed.root, bytes)
    write_private(path, seed.root.hex().encode("ascii"))


def read_seed(path: Path) -> Randomness:
    """Return the seed in a file of :func:`write_seed`."""
    return Randomness(bytes.fromhex(path.read_text(encoding="ascii")))


def write_client_examples(path: Path, examples: Examples) -> None:
    """Write normalised examples."""
    write_bytes(path, save({"inputs": examples.inputs.contiguous(), "labels": examples.labels.contiguous()}))


def read_client_examples(path: Path) -> Examples:
    """Return the examples in a file of :func:`write_client_examples`."""
    tensors = load_file(path)
    return Examples(tensors["inputs"], tensors["labels"])


def load_spec(job: dict[str, Any]) -> FederationSpec:
    """Return the public facts of a training."""
    return FederationSpec(
        Arm.model_validate(job["arm"]), job["sizes"], job["noise_multipliers"], job["affordable_steps"]
    )


@cache
def load_clients(path: str, clients: tuple[int, ...]) -> ClientPool:
    """Return the given clients of a job, and no other client's examples; the same object at each call."""
    # Another number of threads gives other bits.
    make_deterministic()
    folder, spec = Path(path).parent, load_spec(read_json(path))
    owned = {client: read_client_examples(folder / examples_file(client)) for client in clients}
    seeds = {client: read_seed(folder / seed_file(client)) for client in clients}
    test = read_client_examples(folder / TEST)
    return build_client_pool(spec, initial_model(path), owned, _client_side(spec, folder), test, seeds)


def _client_side(spec: FederationSpec, folder: Path) -> ClientSide:
    aggregation, clients = spec.arm.aggregation, _clients_per_round(spec)
    if isinstance(aggregation, Ckks | Bfv):
        from ppml.aggregation.key_service import client_side

        return client_side(aggregation, clients, folder)
    return build_parties(aggregation, clients).clients


def _clients_per_round(spec: FederationSpec) -> int:
    return clients_per_round(spec.topology.participation, len(spec.sizes))


def start_key_service(path: str) -> AbstractContextManager[None]:
    """Run the key holder of a job, if its aggregation has one, in a process that ends with the block."""
    spec = load_spec(read_json(path))
    aggregation = spec.arm.aggregation
    if isinstance(aggregation, Ckks | Bfv):
        from ppml.aggregation import key_service

        return key_service.start_key_service(aggregation, _clients_per_round(spec), Path(path).parent)
    return nullcontext()


def load_server(path: str) -> ServerComponents:
    """Return the components of a job's server, which reads no examples."""
    spec = load_spec(read_json(path))
    material = NO_MATERIAL
    if isinstance(spec.arm.aggregation, Ckks | Bfv):
        from ppml.aggregation.key_service import server_material

        material = server_material(Path(path).parent)
    seed = read_seed(Path(path).with_name(SERVER_SEED))
    return build_server(spec, flatten(initial_model(path)), material, seed)


def initial_model(path: str) -> torch.nn.Module:
    """Return the initial model of a job."""
    job = read_json(path)
    model = build_model(load_spec(job).arm.model, DataContract.model_validate(job["contract"]), torch.Generator())
    weights: torch.Tensor = load_file(Path(path).with_name(INITIAL))["weights"]
    unflatten_into(model, weights.numpy())
    return model
