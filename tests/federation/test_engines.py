"""The apps on every engine, in one process and in several: the same bits."""

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

from ppml.config.arm import Arm
from ppml.errors import UserError
from ppml.federation.run import train_federated
from ppml.ipc.socket_server import CLIENT_ENDPOINT
from ppml.learning.parameters import digest_of, flatten
from ppml.learning.result import TrainingResult
from ppml.randomness import Randomness
from ppml.stages import federation_job
from ppml.training import train

from ..learning.digits import vector
from .parties import CONTRACT, PRIVATE, SIZES, federated, foreign_images, owners, parties, trained, with_learner
from .scanner import secret_holders

RNG = Randomness(5).child("seed", 0)
DATA = ("mnist", "first", 300)
"""Public values of the examples; each mechanism derives its noise from them."""

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
    return [getattr(arm.privacy, "noise_multiplier", None)] * len(SIZES)


@cache
def outcome(name: str, workers: int = 1) -> TrainingResult:
    arm = arm_of(name)
    return train(
        arm,
        owners(),
        noise_of(arm),
        foreign_images(),
        contract=CONTRACT,
        rng=RNG,
        data=DATA,
        report=lambda row: None,
        workers=workers,
    )


def check_same(first: TrainingResult, second: TrainingResult) -> None:
    assert torch.equal(vector(first.models[0]), vector(second.models[0]))
    assert (first.history, first.events) == (second.history, second.events)


@pytest.mark.parametrize(("name", "workers"), [*((name, 2) for name in ARMS), ("cnn", 4)])
def test_number_of_processes_changes_no_bit(name, workers):
    check_same(outcome(name), outcome(name, workers))
    if name != "encrypted":
        # The length of a ciphertext varies by a few bytes.
        sent = [(one.bytes_up, one.bytes_down) for one in (outcome(name), outcome(name, workers))]
        assert sent[0] == sent[1]


def test_training_leaves_no_process():
    outcome.__wrapped__("cnn", 3)
    assert children() == set()


def children() -> set[str]:
    # Child processes of earlier tests end with their last reference, which may be in a cycle.
    gc.collect()
    return {process.name for process in multiprocessing.active_children()}


def test_dead_worker_ends_the_training_with_its_exit_code():
    own = os.getpid()

    class Dies:
        def fit(self, *given, **named):
            assert os.getpid() != own
            os._exit(7)

    parts = with_learner(parties(federated()), 1, lambda learner: Dies())
    with pytest.raises(ChildProcessError, match="exit code 7"):
        trained(parts, workers=2)


# The files of a job.


def write_job(arm: Arm, folder: Path) -> Path:
    return federation_job.write_federation_job(
        folder,
        arm,
        rng=RNG,
        data=DATA,
        contract=CONTRACT,
        owned=owners(),
        test=foreign_images(),
        calibrated={"noise_multipliers": noise_of(arm)},
    )


def job_of(name: str, folder: Path) -> Path:
    return write_job(arm_of(name), folder)


def test_site_reads_only_its_own_examples(tmp_path):
    job = job_of("cnn", tmp_path)
    for client in (0, 2):
        (tmp_path / federation_job.examples_file(client)).unlink()
    own = federation_job.load_clients(str(job), (1,))
    assert list(own.clients) == [1] and len(own.clients[1].examples) == SIZES[1]
    for client in range(3):
        (tmp_path / federation_job.examples_file(client)).unlink(missing_ok=True)
    assert federation_job.load_server(str(job)).settings.clients == 3, "the server reads no examples"


@pytest.mark.parametrize(
    ("aggregation", "message"),
    [
        (
            {"kind": "masking"},
            r"aggregation\.kind: got 'masking'; ",
        ),
        ({"kind": "secret_sharing"}, r"aggregation\.kind: got 'secret_sharing'; "),
        ({"kind": "bfv", "keys": "shared"}, r"aggregation\.keys: got 'shared'; "),
    ],
    ids=["masks", "shares", "a shared key"],
)
def test_unsupported_aggregation_is_refused(aggregation, message, tmp_path, monkeypatch):
    monkeypatch.setitem(ARMS, "encrypted", {"aggregation": aggregation})
    with pytest.raises(UserError, match=message):
        job_of("encrypted", tmp_path)


def test_encrypted_job_repeats_the_bits_and_neither_side_has_the_key(tmp_path):
    """Run the server and the clients of a job, as every engine does, with the endpoint of each."""
    job = str(job_of("encrypted", tmp_path))
    with federation_job.start_key_service(job):
        server, clients = federation_job.load_server(job), federation_job.load_clients(job, (0, 1, 2))
        assert not secret_holders(server, clients)
        assert CLIENT_ENDPOINT not in Path(job).read_text(), "the public file names no endpoint"
        check_same(train_federated(clients, server, lambda row: None), outcome("encrypted"))
    with pytest.raises(ChildProcessError, match="the holder of the secret key cannot be reached"):
        federation_job.load_server(job)


def test_plaintext_job_has_no_key_holder(tmp_path):
    job = str(job_of("cnn", tmp_path))
    before = children()
    with federation_job.start_key_service(job):
        assert children() == before


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install flwr[simulation]"
)
@pytest.mark.parametrize("name", ["cnn", "dense", "private", "encrypted"])
def test_ray_repeats_the_bits_of_the_workflow(name, tmp_path):
    from ppml.federation.engines.ray import run_on_ray

    job = str(job_of(name, tmp_path))
    for workers in (1, 2):
        with federation_job.start_key_service(job):
            clients = partial(federation_job.load_clients, job, (0, 1, 2))
            result = run_on_ray(federation_job.load_server(job), clients, workers=workers)
        assert result.model == digest_of(flatten(outcome(name).models[0]))
        assert (result.history, result.events, result.notices) == (outcome(name).history, outcome(name).events, [])


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_missing_ray_is_one_line_with_the_command():
    from ppml.federation.engines.ray import run_on_ray

    with pytest.raises(UserError, match=r"Ray is not installed; .*pip install"):
        run_on_ray(None, lambda: None, workers=1)


# No connection to other machines.

DENIED = """
import socket

def refuse(*given, **named):
    raise SystemExit(f"connection to {given[1:] or given}")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from tests.federation.test_engines import outcome
print(len(outcome("cnn", 2).history))
"""


def test_training_needs_no_network():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", DENIED], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr[-2000:]


def test_connection_without_network_is_caught():
    code = DENIED.replace('print(len(outcome("cnn", 2).history))', 'socket.create_connection(("127.0.0.1", 9))')
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "connection to" in done.stderr
