"""The stage train after an interruption: it resumes after the last completed round and writes the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ppml.accounting.events import MechanismEvent
from ppml.aggregation import factory as build
from ppml.config.arm import Arm
from ppml.federation import client
from ppml.federation.checkpoint import TrainingCheckpoint
from ppml.federation.global_state import GlobalState
from ppml.federation.server_state import ServerState
from ppml.io.atomic import read_json, write_json
from ppml.jobs.job import Job
from ppml.learning.result import HistoryRow
from ppml.stages import checkpoint_file, model_file, train
from ppml.stages.checkpoint_file import CheckpointFile, CostMeter

from ..aggregation.local import local_parties
from ..federation.runs import bits
from ..federation.scanner import secret_key_in, serialized_secret
from .conftest import TRAIN_OUTPUTS, Files, train_job

pytestmark = pytest.mark.usefixtures("deterministic_torch")

ROUNDS = 4
FEDERATED = {
    "topology": {
        "kind": "federated",
        "partition": "p",
        "rounds": ROUNDS,
        "server": {"kind": "sgd", "momentum": 0.5},
    },
    "training": {"epochs": 1, "batch_size": 32, "learning_rate": 0.05},
}
PRIVACY = {"kind": "example", "noise_multiplier": 1.5, "accountant": "rdp", "max_grad_norm": 0.1}
ARMS = {
    "fl_dp": {**FEDERATED, "privacy": PRIVACY},
    "fl_he": {**FEDERATED, "aggregation": {"kind": "ckks"}},
    "secure": {**FEDERATED, "privacy": {**PRIVACY, "noise_source": "secure"}},
    "centralized": {"training": FEDERATED["training"]},
}


class Training:
    """One job of the stage, with outputs in a new folder."""

    def __init__(self, folder: Path, subset: Files, dataset: str, arm: str, *, seed: int = 0, code: str = "a") -> None:
        self.folder = folder / "run"
        self.checkpoint = self.folder / "checkpoint.safetensors"
        technique = Arm.model_validate(ARMS[arm]).technique()
        inputs = {name: subset[name] for name in ("train", "test", "about")}
        if technique["topology"]["kind"] == "federated":
            inputs["partition"] = subset["partition"]
        if technique["privacy"]["kind"] != "none":
            inputs["noise"] = folder / "noise.json"
            write_json(inputs["noise"], {"noise_multipliers": [1.5, 1.5]})
        self.job = train_job(self.folder, ARMS[arm], inputs, dataset, seed=seed, code=code)

    def run(self) -> None:
        train.run(self.job)

    def kill(self, place: str) -> None:
        """Run the stage in another process, which is killed at ``place``."""
        command = [sys.executable, "-c", KILLED, place, *self.job.options()]
        died = subprocess.run(command, capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr

    def interrupt(self, number: int) -> None:
        """Run the stage, and interrupt it in a round as Ctrl-C does."""
        original = client._compute_protected_update

        def interrupted(clients, owner, round_number, state, left):
            if (round_number, owner) == (number, 1):
                raise KeyboardInterrupt
            return original(clients, owner, round_number, state, left)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(client, "_compute_protected_update", interrupted)
            self.run()

    def outputs(self) -> dict[str, object]:
        """Return all outputs but the measured seconds and memory, which no interruption may change."""
        cost = read_json(self.folder / "cost.json")
        files = {name: (self.folder / TRAIN_OUTPUTS[name]).read_bytes() for name in TRAIN_OUTPUTS if name != "cost"}
        return {**files, "bytes_up": cost["bytes_up"], "bytes_down": cost["bytes_down"]}


KILLED = """
import os, signal, sys
from pathlib import Path
from ppml.federation import client
from ppml.stages import model_file, train
from ppml.jobs.job import Job
from ppml.jobs.threads import make_deterministic

place, *options = sys.argv[1:]
saved, process = 0, os.getpid()
make_deterministic()


def kill_if(module, name, condition):
    original = getattr(module, name)

    def wrapped(*given, **named):
        if condition(*given):
            os.kill(process, signal.SIGKILL)
        return original(*given, **named)

    setattr(module, name, wrapped)


def is_third_save(path, target):
    global saved
    saved += "checkpoint" in Path(target).name
    return saved == 3


match place:
    case "in a round":
        kill_if(client, "_compute_protected_update", lambda clients, owner, number, *others: (number, owner) == (3, 1))
    case "while saving a round":
        kill_if(Path, "replace", is_third_save)
    case "before the outputs":
        kill_if(model_file, "write_bytes", lambda path, data: Path(path).name == "model.safetensors")
    case "after the outputs":
        kill_if(train.CheckpointFile, "discard", lambda checkpoint: True)
train.run(Job.parse(options))
"""
PLACES = {
    "in a round": 2,
    "while saving a round": 2,
    "before the outputs": ROUNDS,
    "after the outputs": ROUNDS,
}
"""Place of the kill -> last round in the checkpoint."""


@pytest.fixture(scope="module")
def uninterrupted(subset, real_data, tmp_path_factory):
    """Return a function that returns the outputs of an uninterrupted training."""
    known: dict[str, dict[str, object]] = {}

    def of(arm: str) -> dict[str, object]:
        if arm not in known:
            training = Training(tmp_path_factory.mktemp(arm), subset, real_data.dataset, arm)
            training.run()
            known[arm] = training.outputs()
        return known[arm]

    return of


@pytest.fixture
def training(subset, real_data, tmp_path):
    """Return a function that returns a training in the folder of the test."""
    return lambda arm, **others: Training(tmp_path, subset, real_data.dataset, arm, **others)


def check_same(training: Training, expected: dict[str, object], *, encrypted: bool = False) -> None:
    found = training.outputs()
    for name, value in expected.items():
        if encrypted and name.startswith("bytes"):
            # The compressed size of a random ciphertext varies: two uninterrupted trainings differ as well.
            value = pytest.approx(value, rel=1e-3)
        assert found[name] == value, name


@pytest.mark.parametrize(("arm", "place"), [*(("fl_dp", place) for place in PLACES), ("fl_he", "in a round")])
def test_killed_training_resumes_and_writes_same_bytes(arm, place, training, uninterrupted, capsys):
    expected = uninterrupted(arm)
    one = training(arm)
    one.kill(place)
    assert one.checkpoint.is_file()
    capsys.readouterr()
    one.run()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"resuming after round {PLACES[place]} of {ROUNDS}"
    assert len(printed) == 1 + ROUNDS - PLACES[place]
    check_same(one, expected, encrypted=arm == "fl_he")
    assert not one.checkpoint.exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc for the seconds of another process")
def test_cpu_seconds_of_running_child_count():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def busy() -> None:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        theirs.send_bytes(b"done")
        theirs.recv_bytes()

    before = checkpoint_file._cpu_seconds()
    child = context.Process(target=busy, daemon=True)
    child.start()
    try:
        assert ours.poll(60), "the child sends nothing"
        assert 0.25 < checkpoint_file._cpu_seconds() - before < 1.0
    finally:
        child.kill()
        child.join()


def test_training_interrupted_twice_writes_same_bytes(training, uninterrupted, capsys):
    one, expected = training("fl_dp"), uninterrupted("fl_dp")
    capsys.readouterr()
    one.interrupt(2)
    one.interrupt(4)
    one.run()
    check_same(one, expected)
    printed = capsys.readouterr().out
    assert [printed.count(f"resuming after round {number} of {ROUNDS}") for number in (1, 3)] == [1, 1]
    assert [printed.count(f"round {number}: ") for number in range(1, ROUNDS + 1)] == [1] * ROUNDS


def test_success_deletes_checkpoint(training, uninterrupted, capsys):
    one = training("fl_dp")
    assert not one.folder.exists()
    one.run()
    check_same(one, uninterrupted("fl_dp"))
    assert {path.name for path in one.folder.iterdir()} == set(TRAIN_OUTPUTS.values())
    assert "resuming" not in capsys.readouterr().out


@pytest.mark.parametrize("arm", ["secure", "centralized"])
def test_training_without_resumption_writes_no_checkpoint(arm, training, monkeypatch):
    written = []
    for module in (model_file, checkpoint_file):
        monkeypatch.setattr(module, "write_bytes", lambda path, data: written.append(path.name))
    one = training(arm)
    one.run()
    assert written == ["model.safetensors"]


# Checkpoints of other trainings.


@pytest.mark.parametrize("other", [{"seed": 1}, {"code": "b"}], ids=["seed", "code"])
def test_checkpoint_of_other_training_is_ignored_with_one_line(other, training, uninterrupted, capsys):
    training("fl_dp", **other).interrupt(3)
    one = training("fl_dp")
    assert one.checkpoint.is_file()
    capsys.readouterr()
    one.run()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"starting from the beginning, not from {one.checkpoint}: ")
    assert len(printed) == 1 + ROUNDS
    check_same(one, uninterrupted("fl_dp"))
    assert not one.checkpoint.exists()


def flipped(place: int):
    """Return a function that changes one bit."""

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[place] ^= 1
        return bytes(changed)

    return flip


def identity_of(monkeypatch, job: Job) -> str:
    """Return the identity of a job."""
    found: list[str] = []

    class Stop(BaseException):
        pass

    def stop(path, identity, meter):
        found.append(identity)
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(train, "CheckpointFile", stop)
        train.run(job)
    return found[0]


def test_identity_depends_on_content_of_inputs_and_on_no_path(training, monkeypatch, tmp_path):
    job = training("fl_dp").job
    expected = identity_of(monkeypatch, job)
    copies = {name: tmp_path / f"copy-{name}" for name in job.inputs}
    for name, path in copies.items():
        path.write_bytes(job.inputs[name].read_bytes())
    moved = replace(job, inputs=copies, outputs={name: tmp_path / "moved" / name for name in job.outputs})
    assert identity_of(monkeypatch, replace(moved, threads=2, notes={"name": "p"})) == expected

    for name, path in copies.items():
        kept = path.read_bytes()
        # One blank in a JSON file, or one bit of an image.
        path.write_bytes(kept + b" " if kept.startswith(b"{") else flipped(-1)(kept))
        assert identity_of(monkeypatch, moved) != expected, name
        path.write_bytes(kept)
    for changes in ({"seed": 7}, {"digest": "b"}, {"spec": {**job.spec, "root_seed": 2025}}):
        assert identity_of(monkeypatch, replace(job, **changes)) != expected, changes


VALUES = np.arange(5000, dtype=np.float32)


def checkpoint_of(**others) -> TrainingCheckpoint:
    parts = {
        "server_state": ServerState(7, {0: 7, 1: 6, 10: -1}, {6: 180_000, 7: 180_001}, (1, 10), {0: 7, 1: 5}),
        "rounds": 17,
        "global_state": GlobalState(VALUES / 3, {"velocity": -VALUES / 7, "control": VALUES / 9}),
        "private_states": [{"control": VALUES / 11}, {}],
        "client_events": [(MechanismEvent(0.1, 4, 30, 1.0), MechanismEvent(1 / 3, 4.5, 2, 0.1)), ()],
        "server_events": (MechanismEvent(1.0, 1.5, 7, 1.0),),
        "history": [HistoryRow(1, None, 2.302585092994046, 1 / 3, 2), HistoryRow(2, None, float("inf"), 0.5)],
        "bytes_up": 10**12,
        "bytes_down": 3,
    }
    return TrainingCheckpoint(**{**parts, **others})


def test_loaded_checkpoint_has_bits_of_saved_one(tmp_path, capsys):
    saved = checkpoint_of()
    path = tmp_path / "new" / "checkpoint"
    CheckpointFile(path, "this", CostMeter()).save(lambda: saved)
    loaded = CheckpointFile(path, "this", CostMeter()).load()
    assert capsys.readouterr().out == "resuming after round 7 of 17\n"
    for name, value in vars(saved).items():
        found = getattr(loaded, name)
        assert bits(found) == bits(value), name
        if name not in ("global_state", "private_states"):
            # The types are equal as well: 4 is not 4.0, and a list is no tuple.
            assert repr(found) == repr(value)


def test_cost_of_resumed_training_counts_all_its_processes(tmp_path):
    meter = CostMeter()
    meter.resume_from({"seconds": 1000.0, "cpu_seconds": 900.0, "training_memory_mb": 1e9})
    CheckpointFile(tmp_path / "checkpoint", "this", meter).save(lambda: checkpoint_of())
    again = CostMeter()
    CheckpointFile(tmp_path / "checkpoint", "this", again).load()
    total, fresh = again.read(), CostMeter().read()
    assert 1000 < total["seconds"] < 1060 and 900 < total["cpu_seconds"] < 960 and total["training_memory_mb"] == 1e9
    assert fresh["seconds"] < 60 and 0 <= fresh["training_memory_mb"] < 1e9


DAMAGES = {
    "truncated": lambda data: data[:-1000],
    "truncated in its header": lambda data: data[:100],
    "empty": lambda data: b"",
    "other content": lambda data: b"\xff" * 5000,
    "a bit in a vector": flipped(-5000),
    "a bit in a number": lambda data: data.replace(b"180001", b"180002"),
    "another type": lambda data: data.replace(b'"F32"', b'"I32"'),
    "empty safetensors": lambda data: (2).to_bytes(8, "little") + b"{}",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_ignored_with_one_line_and_replaced(damage, tmp_path, capsys):
    path = tmp_path / "checkpoint"
    kept = CheckpointFile(path, "this", CostMeter())
    kept.save(lambda: checkpoint_of())
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert path.read_bytes() != data
    assert kept.load() is None
    printed = capsys.readouterr().out
    assert printed.startswith(f"starting from the beginning, not from {path}: ") and printed.count("\n") == 1
    kept.save(lambda: checkpoint_of())
    assert kept.load() is not None


def test_folder_in_place_of_checkpoint_is_ignored_with_one_line(tmp_path, capsys):
    assert CheckpointFile(tmp_path, "this", CostMeter()).load() is None
    assert capsys.readouterr().out.count("\n") == 1


def test_absent_checkpoint_prints_nothing(tmp_path, capsys):
    assert CheckpointFile(tmp_path / "checkpoint", "this", CostMeter()).load() is None
    assert capsys.readouterr().out == ""


# Secrets.


@pytest.fixture
def sides(monkeypatch):
    """Return the parties of each later training, with their keys."""
    made = []

    def spied(spec, clients):
        made.append(local_parties(spec, clients))
        return made[-1]

    monkeypatch.setattr(build, "build_parties", spied)
    return made


def test_no_file_of_a_run_holds_a_secret_key(training, sides):
    one = training("fl_he")
    one.interrupt(2)
    one.run()
    files = [path.read_bytes() for path in one.folder.rglob("*") if path.is_file()]
    assert len(sides) == 2 and len(files) >= len(TRAIN_OUTPUTS)
    for side in sides:
        assert not secret_key_in(files, side.clients)
        assert secret_key_in([*files, files[0] + serialized_secret(side.clients)], side.clients)


def test_checkpoint_has_no_key_and_only_values_that_clients_know(training, sides):
    one = training("fl_he")
    one.interrupt(3)
    data = one.checkpoint.read_bytes()
    assert not secret_key_in([data], sides[0].clients)
    with safe_open(one.checkpoint, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = file.metadata()
    assert {name: (str(array.dtype), array.ndim) for name, array in arrays.items()} == {
        "parameters": ("float32", 1),
        "memory.velocity": ("float32", 1),
    }
    assert set(notes) == {"identity", "state", "digest"}
    state = json.loads(notes["state"])
    assert set(state) == {
        "server_state",
        "rounds",
        "events",
        "server_events",
        "history",
        "bytes_up",
        "bytes_down",
        "cost",
    }
    assert set(state["server_state"]) == {"number", "known", "sum_bytes", "finished", "last_included"}
    assert set(state["cost"]) == {"seconds", "cpu_seconds", "training_memory_mb"}
    # One encrypted sum is larger than the remaining bytes.
    vectors, sizes = 2 * arrays["parameters"].nbytes, state["server_state"]["sum_bytes"]
    assert set(sizes) == {"1", "2"}
    assert len(data) < vectors + 10_000 < vectors + min(sizes.values())


MEMORY = """
import numpy as np
from ppml.stages.checkpoint_file import CostMeter

before = np.ones(2**24)
meter = CostMeter()
during = np.ones(2**23)
del during
print(meter.read()["training_memory_mb"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems state only the peak since the start of a process")
def test_memory_of_training_is_its_growth() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(64, abs=8)
