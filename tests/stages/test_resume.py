"""The stage train, interrupted: it goes on after the last completed round and leaves the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ppml.accounting.events import MechanismEvent
from ppml.aggregation import factory as build
from ppml.config.arm import Arm
from ppml.federation import client
from ppml.federation.checkpoint import Progress
from ppml.federation.global_state import GlobalState
from ppml.federation.server_state import Standing
from ppml.io.atomic import read_json, write_json
from ppml.learning.result import HistoryRow
from ppml.stages import train
from ppml.stages.train import Clock, ProgressFile

from ..aggregation.local import local_parties
from ..federation.runs import bits
from ..federation.scanner import secret_key_in, serialized_secret

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

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
OUTPUTS = {
    "config": "config.json",
    "model": "model.safetensors",
    "history": "history.csv",
    "events": "events.json",
    "cost": "cost.json",
}


class Job:
    """One call of the stage, into a folder of its own."""

    def __init__(self, folder: Path, subset, dataset: str, arm: str, *, seed: int = 0, stamp: str = "code") -> None:
        self.folder = folder
        self.progress = folder / "kept" / "progress.safetensors"
        self.noise = folder / "noise.json"
        technique = Arm.model_validate(ARMS[arm]).technique()
        spec = {"arm": technique, "dataset": dataset, "root_seed": 2024, "device": "cpu"}
        given = ["--train", subset.train, "--test", subset.test, "--about", subset.about]
        if technique["topology"]["kind"] == "federated":
            given += ["--partition", subset.partition]
        if technique["privacy"]["kind"] != "none":
            write_json(self.noise, {"noise_multipliers": [1.5, 1.5]})
            given += ["--noise", self.noise]
        for name, file in OUTPUTS.items():
            given += [f"--output-{name}", folder / file]
        given += ["--progress", self.progress, "--stamp", stamp]
        self.argv = ["--spec", json.dumps(spec), "--seed", str(seed), *map(str, given)]

    def run(self) -> None:
        train.main(self.argv)

    def kill(self, place: str) -> None:
        """Run the stage in a process of its own that is killed at ``place``."""
        died = subprocess.run(
            [sys.executable, "-c", KILLED, place, *self.argv], capture_output=True, text=True, check=False
        )
        assert died.returncode == -signal.SIGKILL, died.stderr

    def interrupt(self, number: int) -> None:
        """Run the stage and press Ctrl-C in a round."""
        original = client._contribute

        def interrupted(clients, owner, round_number, state, left):
            if (round_number, owner) == (number, 1):
                raise KeyboardInterrupt
            return original(clients, owner, round_number, state, left)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(client, "_contribute", interrupted)
            self.run()

    def outputs(self) -> dict[str, object]:
        """Return what must not depend on an interruption: seconds and memory are measured."""
        cost = read_json(self.folder / "cost.json")
        files = {name: (self.folder / OUTPUTS[name]).read_bytes() for name in OUTPUTS if name != "cost"}
        return {**files, "bytes_up": cost["bytes_up"], "bytes_down": cost["bytes_down"]}


KILLED = """
import os, signal, sys
from pathlib import Path
from ppml.federation import client
from ppml.stages import train

place, *argv = sys.argv[1:]
saved, job = 0, os.getpid()


def killed_if(module, name, condition):
    original = getattr(module, name)

    def wrapped(*given, **named):
        if condition(*given):
            os.kill(job, signal.SIGKILL)
        return original(*given, **named)

    setattr(module, name, wrapped)


def third(path, target):
    global saved
    saved += "progress" in Path(target).name
    return saved == 3


match place:
    case "in a round":
        killed_if(client, "_contribute", lambda clients, owner, number, state, left: (number, owner) == (3, 1))
    case "while saving a round":
        killed_if(Path, "replace", third)
    case "before the outputs":
        killed_if(train, "write_bytes", lambda path, data: Path(path).name == "model.safetensors")
    case "after the outputs":
        killed_if(train.ProgressFile, "discard", lambda progress: True)
train.main(argv)
"""
PLACES = {
    "in a round": 2,
    "while saving a round": 2,
    "before the outputs": ROUNDS,
    "after the outputs": ROUNDS,
}
"""Where a process is killed -> the last round that it leaves."""


@pytest.fixture(scope="module")
def undisturbed(subset, real_data, tmp_path_factory):
    """Return a function to the outputs of a training that nobody disturbed."""
    known: dict[str, dict[str, object]] = {}

    def of(arm: str) -> dict[str, object]:
        if arm not in known:
            job = Job(tmp_path_factory.mktemp(arm), subset, real_data.dataset, arm)
            job.run()
            known[arm] = job.outputs()
        return known[arm]

    return of


@pytest.fixture
def job(subset, real_data, tmp_path):
    """Return a function to a job in the folder of the test."""
    return lambda arm, **others: Job(tmp_path, subset, real_data.dataset, arm, **others)


def check_same(job: Job, expected: dict[str, object], *, encrypted: bool = False) -> None:
    found = job.outputs()
    for name, value in expected.items():
        if encrypted and name.startswith("bytes"):
            # Ciphertexts are compressed where they are random: two undisturbed trainings differ by some bytes, too.
            value = pytest.approx(value, rel=1e-3)
        assert found[name] == value, name


@pytest.mark.parametrize(("arm", "place"), [*(("fl_dp", place) for place in PLACES), ("fl_he", "in a round")])
def test_a_process_that_is_killed_resumes_and_ends_with_the_same_bytes(arm, place, job, undisturbed, capsys):
    expected = undisturbed(arm)
    one = job(arm)
    one.kill(place)
    assert one.progress.is_file()
    capsys.readouterr()
    one.run()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"resuming after round {PLACES[place]} of {ROUNDS}"
    assert len(said) == 1 + ROUNDS - PLACES[place]
    check_same(one, expected, encrypted=arm == "fl_he")
    assert not one.progress.exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see what another process calculates")
def test_what_a_process_calculates_that_has_not_ended_counts():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def busy() -> None:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        theirs.send_bytes(b"done")
        theirs.recv_bytes()

    before = train._cpu_seconds()
    child = context.Process(target=busy, daemon=True)
    child.start()
    try:
        assert ours.poll(60), "the child has said nothing"
        assert 0.25 < train._cpu_seconds() - before < 1.0
    finally:
        child.kill()
        child.join()


def test_ctrl_c_is_no_different(job, undisturbed, capsys):
    one, expected = job("fl_dp"), undisturbed("fl_dp")
    capsys.readouterr()
    one.interrupt(2)
    one.interrupt(4)
    one.run()
    check_same(one, expected)
    printed = capsys.readouterr().out
    assert [printed.count(f"resuming after round {number} of {ROUNDS}") for number in (1, 3)] == [1, 1]
    assert [printed.count(f"round {number}: ") for number in range(1, ROUNDS + 1)] == [1] * ROUNDS


def test_the_folder_of_the_progress_is_made_and_the_file_is_gone_after_success(job, undisturbed, capsys):
    one = job("fl_dp")
    assert not one.progress.parent.exists()
    one.run()
    check_same(one, undisturbed("fl_dp"))
    assert list(one.progress.parent.iterdir()) == []
    assert "resuming" not in capsys.readouterr().out


@pytest.mark.parametrize("arm", ["secure", "centralized"])
def test_trainings_that_start_over_keep_nothing_on_the_disk(arm, job, monkeypatch):
    written = []
    monkeypatch.setattr(train, "write_bytes", lambda path, data: written.append(path.name))
    one = job(arm)
    one.run()
    assert written == ["model.safetensors"]


# Progress that is not this training's.


@pytest.mark.parametrize("other", [{"seed": 1}, {"stamp": "other code"}], ids=["seed", "code"])
def test_the_progress_of_another_training_is_ignored_in_one_line(other, job, undisturbed, capsys):
    job("fl_dp", **other).interrupt(3)
    one = job("fl_dp")
    assert one.progress.is_file()
    capsys.readouterr()
    one.run()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        f"starting from the beginning, not from {one.progress}: it belongs to a training with other settings, data or "
        "code"
    )
    assert len(said) == 1 + ROUNDS
    check_same(one, undisturbed("fl_dp"))
    assert not one.progress.exists()


def flipped(place: int):
    """Return a damage of one bit."""

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[place] ^= 1
        return bytes(changed)

    return flip


def identity_of(monkeypatch, argv: list[str]) -> str:
    """Return the identity that the stage gives to a call."""
    found: list[str] = []

    class Stop(BaseException):
        pass

    def stop(path, identity, clock):
        found.append(identity)
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(train, "ProgressFile", stop)
        train.main(argv)
    return found[0]


def test_the_identity_depends_on_every_input_and_on_no_path(job, monkeypatch, tmp_path):
    argv = job("fl_dp").argv
    expected = identity_of(monkeypatch, argv)
    # Where outputs and inputs lie does not matter.
    moved = [part.replace("model.safetensors", "moved") for part in argv]
    copies = {}
    for name in ("train", "test", "about", "partition", "noise"):
        place = argv.index(f"--{name}") + 1
        copies[name] = tmp_path / f"copy-{name}"
        copies[name].write_bytes(Path(argv[place]).read_bytes())
        moved[place] = str(copies[name])
    assert identity_of(monkeypatch, moved) == expected

    seen = {expected}
    for name, path in copies.items():
        kept = path.read_bytes()
        # One blank in a JSON file is enough, or one bit of an image.
        path.write_bytes(kept + b" " if kept.startswith(b"{") else flipped(-1)(kept))
        seen.add(identity_of(monkeypatch, moved))
        path.write_bytes(kept)
        assert len(seen) == 2, name
        seen = {expected}
    for name, value in (("seed", "7"), ("stamp", "other"), ("spec", argv[1].replace("2024", "2025"))):
        other = list(argv)
        other[other.index(f"--{name}") + 1] = value
        assert identity_of(monkeypatch, other) != expected, name


VALUES = np.arange(5000, dtype=np.float32)


def progress_of(**others) -> Progress:
    parts = {
        "standing": Standing(7, {0: 7, 1: 6, 10: -1}, {6: 180_000, 7: 180_001}, (1, 10), {0: 7, 1: 5}),
        "rounds": 17,
        "common": GlobalState(VALUES / 3, {"velocity": -VALUES / 7, "control": VALUES / 9}),
        "own": [{"control": VALUES / 11}, {}],
        "events": [(MechanismEvent(0.1, 4, 30, 1.0), MechanismEvent(1 / 3, 4.5, 2, 0.1)), ()],
        "server_events": (MechanismEvent(1.0, 1.5, 7, 1.0),),
        "history": [HistoryRow(1, None, 2.302585092994046, 1 / 3, 2), HistoryRow(2, None, float("inf"), 0.5)],
        "bytes_up": 10**12,
        "bytes_down": 3,
    }
    return Progress(**{**parts, **others})


def test_progress_comes_back_bit_for_bit(tmp_path, capsys):
    saved = progress_of()
    path = tmp_path / "new" / "progress"
    ProgressFile(path, "this", Clock()).save(lambda: saved)
    loaded = ProgressFile(path, "this", Clock()).load()
    assert capsys.readouterr().out == "resuming after round 7 of 17\n"
    for name, value in vars(saved).items():
        found = getattr(loaded, name)
        assert bits(found) == bits(value), name
        if name not in ("common", "own"):
            # 4 is not 4.0, and a list is no tuple.
            assert repr(found) == repr(value)


@pytest.mark.parametrize(
    "fault",
    [
        {"common": GlobalState(VALUES / 3, {"velocity": -VALUES / 7})},
        {"own": [{}, {"control": VALUES / 11}]},
        {"server_events": ()},
        {"standing": Standing(7, {0: 7, 1: 6, 10: -1}, {6: 180_000, 7: 180_001}, (1, 10), {0: 7})},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_a_part_that_comes_back_as_another_is_caught(fault, tmp_path):
    ProgressFile(tmp_path / "progress", "this", Clock()).save(lambda: progress_of(**fault))
    loaded = ProgressFile(tmp_path / "progress", "this", Clock()).load()
    assert bits(loaded) != bits(progress_of())


def test_the_cost_of_a_resumed_training_is_that_of_all_its_processes(tmp_path):
    clock = Clock()
    clock.carry_on({"seconds": 1000.0, "cpu_seconds": 900.0, "peak_memory_mb": 1e9})
    ProgressFile(tmp_path / "progress", "this", clock).save(lambda: progress_of())
    again = Clock()
    ProgressFile(tmp_path / "progress", "this", again).load()
    total, fresh = again.read(), Clock().read()
    assert 1000 < total["seconds"] < 1060 and 900 < total["cpu_seconds"] < 960 and total["peak_memory_mb"] == 1e9
    assert fresh["seconds"] < 60 and 0 < fresh["peak_memory_mb"] < 1e9


DAMAGES = {
    "truncated": lambda data: data[:-1000],
    "truncated in its header": lambda data: data[:100],
    "empty": lambda data: b"",
    "something else": lambda data: b"\xff" * 5000,
    "a bit in a vector": flipped(-5000),
    "a bit in a number": lambda data: data.replace(b"180001", b"180002"),
    "another type": lambda data: data.replace(b'"F32"', b'"I32"'),
    "safetensors of nothing": lambda data: (2).to_bytes(8, "little") + b"{}",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_progress_is_ignored_in_one_line_and_overwritten(damage, tmp_path, capsys):
    path = tmp_path / "progress"
    kept = ProgressFile(path, "this", Clock())
    kept.save(lambda: progress_of())
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert path.read_bytes() != data
    assert kept.load() is None
    said = capsys.readouterr().out
    assert said.startswith(f"starting from the beginning, not from {path}: ") and said.count("\n") == 1
    kept.save(lambda: progress_of())
    assert kept.load() is not None


def test_something_that_is_no_file_is_ignored_in_one_line(tmp_path, capsys):
    assert ProgressFile(tmp_path, "this", Clock()).load() is None
    assert capsys.readouterr().out.count("\n") == 1


def test_where_nothing_was_kept_nothing_is_said(tmp_path, capsys):
    assert ProgressFile(tmp_path / "progress", "this", Clock()).load() is None
    assert capsys.readouterr().out == ""


def test_a_truncated_file_starts_the_stage_over(job, undisturbed, capsys):
    one = job("fl_dp")
    one.interrupt(3)
    one.progress.write_bytes(one.progress.read_bytes()[:-1])
    one.run()
    assert f"starting from the beginning, not from {one.progress}: " in capsys.readouterr().out
    check_same(one, undisturbed("fl_dp"))


# Secrets.


@pytest.fixture
def sides(monkeypatch):
    """Return the parties of each training from now on, with keys that a test can look at."""
    made = []

    def spied(spec, clients):
        made.append(local_parties(spec, clients))
        return made[-1]

    monkeypatch.setattr(build, "build_parties", spied)
    return made


def test_no_file_of_a_run_holds_a_secret_key(job, sides):
    one = job("fl_he")
    one.interrupt(2)
    one.run()
    files = [path.read_bytes() for path in one.folder.rglob("*") if path.is_file()]
    assert len(sides) == 2 and len(files) >= len(OUTPUTS)
    for side in sides:
        assert not secret_key_in(files, side.clients)
        assert secret_key_in([*files, files[0] + serialized_secret(side.clients)], side.clients)


def test_the_file_holds_no_key_and_nothing_but_what_clients_know(job, sides):
    one = job("fl_he")
    one.interrupt(3)
    data = one.progress.read_bytes()
    assert not secret_key_in([data], sides[0].clients)
    with safe_open(one.progress, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = file.metadata()
    assert {name: (str(array.dtype), array.ndim) for name, array in arrays.items()} == {
        "parameters": ("float32", 1),
        "memory.velocity": ("float32", 1),
    }
    assert set(notes) == {"identity", "state", "digest"}
    state = json.loads(notes["state"])
    assert set(state) == {
        "standing",
        "rounds",
        "events",
        "server_events",
        "history",
        "bytes_up",
        "bytes_down",
        "cost",
    }
    assert set(state["standing"]) == {"number", "known", "sum_bytes", "finished", "accepted"}
    assert set(state["cost"]) == {"seconds", "cpu_seconds", "peak_memory_mb"}
    # No room for a ciphertext: one sum takes more than this alone.
    vectors, sizes = 2 * arrays["parameters"].nbytes, state["standing"]["sum_bytes"]
    assert set(sizes) == {"1", "2"}
    assert len(data) < vectors + 10_000 < vectors + min(sizes.values())
