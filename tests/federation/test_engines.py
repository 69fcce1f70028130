"""One set of apps on every engine: the same bits, whatever runs the clients and in how many processes."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from ppml.aggregation.factory import build_parties
from ppml.config.arm import Arm
from ppml.errors import UserError
from ppml.federation.factory import FederationSpec, build_client_pool, build_server, party_seeds
from ppml.federation.run import train_federated
from ppml.ipc.socket_server import CLIENT_ENDPOINT
from ppml.learning.parameters import digest_of, flatten
from ppml.learning.result import TrainingResult
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.stages import federation_job as sites
from ppml.training import train

from ..learning.digits import vector
from .parties import PRIVATE, SIZES, foreign_images, owners
from .scanner import secret_holders

RNG = Randomness(5).child("seed", 0)
DATA = ("mnist", "first", 300)
"""What is public of the records, from which each mechanism has its own noise."""

ARMS = {
    "cnn": {},
    "dense": {"model": "mlp"},
    "private": {"privacy": PRIVATE},
    "encrypted": {"aggregation": {"kind": "ckks"}},
    "a part, scaffold": {"participation": 0.67, "correction": {"kind": "scaffold"}},
    "clients hidden": {
        "model": "logistic",
        "weighting": "uniform",
        "privacy": {"kind": "client", "noise_multiplier": 1.0},
    },
}


def arm_of(name: str) -> Arm:
    parts = dict(ARMS[name])
    topology = {key: parts.pop(key) for key in ("participation", "correction", "weighting") if key in parts}
    return Arm.model_validate(
        {
            "topology": {
                "kind": "federated",
                "partition": "three",
                "rounds": 3,
                "server": {"kind": "sgd", "momentum": 0.5},
                **topology,
            },
            "training": {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "shift": 1},
            **parts,
        }
    )


def noise_of(arm: Arm) -> list[float | None]:
    return [None if arm.privacy.kind == "none" else 1.0] * len(SIZES)


@cache
def outcome(name: str, workers: int = 1) -> TrainingResult:
    arm = arm_of(name)
    return train(
        arm,
        owners(),
        noise_of(arm),
        foreign_images(),
        classes=10,
        rng=RNG,
        data=DATA,
        report=lambda row: None,
        workers=workers,
    )


def check_same(first: TrainingResult, second: TrainingResult) -> None:
    assert torch.equal(vector(first.models[0]), vector(second.models[0]))
    assert (first.history, first.events) == (second.history, second.events)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("name", ARMS)
def test_the_bits_do_not_depend_on_the_number_of_processes(name, workers):
    check_same(outcome(name), outcome(name, workers))
    if name != "encrypted":
        # Ciphertexts differ in length by a few bytes from one encryption to the next.
        sent = [(one.bytes_up, one.bytes_down) for one in (outcome(name), outcome(name, workers))]
        assert sent[0] == sent[1]


def test_no_process_is_left_behind():
    outcome.__wrapped__("cnn", 3)
    assert children() == set()


def children() -> set[str]:
    # Parties that other tests did not close end with the last reference to them, which may be in a circle.
    gc.collect()
    return {process.name for process in multiprocessing.active_children()}


def test_a_process_that_dies_ends_the_training_with_an_error_that_says_so(monkeypatch):
    arm = arm_of("cnn")
    given = FederationSpec(arm, list(SIZES), noise_of(arm), [None] * 3)
    seeds = party_seeds(RNG, 3)
    model = build_model("tanh_cnn", 10, RNG.child("initial-weights").torch())
    both = build_parties(arm.aggregation, 3)
    population = build_client_pool(
        given, model, dict(enumerate(owners())), both.clients, foreign_images(), seeds.clients
    )
    own = os.getpid()

    class Dies:
        def fit(self, *given, **named):
            assert os.getpid() != own
            os._exit(7)

    population.members[1].__dict__["learner"] = Dies()
    server = build_server(given, flatten(model), both.material, seeds.server)
    with pytest.raises(ChildProcessError, match="exit code 7"):
        train_federated(population, server, lambda row: None, workers=2)


# Files, and what each site reads of them.


def job_of(name: str, folder: Path) -> Path:
    return sites.write_job(
        folder,
        arm_of(name),
        rng=RNG,
        data=DATA,
        classes=10,
        owned=owners(),
        test=foreign_images(),
        calibrated={"noise_multipliers": noise_of(arm_of(name))},
    )


def test_a_site_reads_its_own_records_and_nobody_elses(tmp_path):
    job = job_of("cnn", tmp_path)
    for client in (0, 2):
        (tmp_path / sites.records_of(client)).unlink()
    own = sites.population(str(job), (1,))
    assert list(own.members) == [1] and len(own.members[1].records) == SIZES[1]
    for client in range(3):
        (tmp_path / sites.records_of(client)).unlink(missing_ok=True)
    assert sites.server(str(job)).plan.clients == 3, "the server reads no records at all"


@pytest.mark.parametrize(
    ("aggregation", "message"),
    [
        (
            {"kind": "masking"},
            r"aggregation\.kind: got 'masking'; engines other than the one in process take plaintext, ",
        ),
        ({"kind": "secret_sharing"}, r"aggregation\.kind: got 'secret_sharing'; .* reach no helping servers"),
        ({"kind": "bfv", "keys": "shared"}, r"aggregation\.keys: got 'shared'; .* take public: no secret key travels"),
    ],
    ids=["masks", "shares", "a shared key"],
)
def test_what_would_have_to_travel_or_be_remembered_is_refused_elsewhere(aggregation, message, tmp_path, monkeypatch):
    monkeypatch.setitem(ARMS, "sealed", {"aggregation": aggregation})
    with pytest.raises(UserError, match=message):
        job_of("sealed", tmp_path)


def test_sites_that_encrypt_come_to_the_bits_of_the_workflow_and_neither_side_has_the_key(tmp_path):
    """What every engine gives its processes, run here: the server's parts and the clients', and a door for each."""
    job = str(job_of("encrypted", tmp_path))
    with sites.hold_keys(job):
        parts, clients = sites.server(job), sites.population(job, (0, 1, 2))
        assert not secret_holders(parts, clients)
        assert CLIENT_ENDPOINT not in Path(job).read_text(), "what is public leads to no door"
        check_same(train_federated(clients, parts, lambda row: None), outcome("encrypted"))
    with pytest.raises(ChildProcessError, match="the holder of the secret key cannot be reached"):
        sites.server(job)


def test_in_the_clear_there_is_no_key_to_hold(tmp_path):
    job = str(job_of("cnn", tmp_path))
    before = children()
    with sites.hold_keys(job):
        assert children() == before


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install flwr[simulation]"
)
@pytest.mark.parametrize("name", ["cnn", "dense", "private", "encrypted"])
def test_on_ray_the_bits_are_those_of_the_workflow(name, tmp_path):
    from ppml.federation.engines.ray import run_on_ray

    job = str(job_of(name, tmp_path))
    for workers in (1, 2):
        with sites.hold_keys(job):
            result = run_on_ray(sites.server(job), partial(sites.population, job, (0, 1, 2)), workers=workers)
        assert result.model == digest_of(flatten(outcome(name).models[0]))
        assert (result.history, result.events, result.notices) == (outcome(name).history, outcome(name).events, [])


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_where_ray_is_not_installed_one_line_says_how_to_get_it():
    from ppml.federation.engines.ray import run_on_ray

    with pytest.raises(UserError, match=r"Ray is not installed; .*pip install"):
        run_on_ray(None, lambda: None, workers=1)


# Nobody calls home.

DENIED = """
import socket

def refuse(*given, **named):
    raise SystemExit(f"somebody calls {given[1:] or given}")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from tests.federation.test_engines import outcome
print(len(outcome("cnn", 2).history))
"""


def test_a_training_goes_through_with_the_network_denied():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", DENIED], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr[-2000:]


def test_a_call_to_anybody_would_be_seen():
    code = DENIED.replace('print(len(outcome("cnn", 2).history))', 'socket.create_connection(("127.0.0.1", 9))')
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "somebody calls" in done.stderr
