"""What the warm server holds: every library that a job needs, nothing begun, and the same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppml.config.arm import Arm
from ppml.forkserver import server as warm
from ppml.forkserver.job_client import VARIABLE
from ppml.io.atomic import write_json
from ppml.ipc import parent_watch as parent

EVERYTHING = {
    "topology": {"kind": "federated", "partition": "p", "rounds": 2},
    "privacy": {"kind": "example", "noise_multiplier": 1.5, "accountant": "rdp", "max_grad_norm": 0.1},
    "aggregation": {"kind": "ckks"},
    "training": {"epochs": 1, "batch_size": 50, "learning_rate": 1.0},
}
SAME = {"config": "config.json", "model": "model.safetensors", "history": "history.csv", "events": "events.json"}

IMPORT_ALL = """
import importlib, os, sys, threading
from ppml.stages.threads import one_thread
from ppml.forkserver.preload import NEEDS
one_thread()
for name in dict.fromkeys(name for names in NEEDS.values() for name in names):
    importlib.import_module(name)
import torch
threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else threading.active_count()
print(threads, torch.cuda.is_initialized(), flush=True)
if os.fork() == 0:
    # Torch refuses CUDA to a process that was forked after CUDA had begun.
    print(torch.cuda._is_in_bad_fork(), torch.get_num_threads(), flush=True)
    os._exit(0)
os.wait()
"""


def test_libraries_can_be_imported_and_begin_neither_a_thread_nor_cuda():
    found = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    assert found.stdout == "1 False\nFalse 1\n"


def train(folder: Path, subset, dataset: str) -> tuple[dict[str, bytes], float]:
    """Run the stage train as a job; return what must always be the same, and the memory that it measured."""
    folder.mkdir()
    write_json(folder / "noise.json", {"noise_multipliers": [1.5, 1.5]})
    spec = {"arm": Arm.model_validate(EVERYTHING).technique(), "dataset": dataset, "root_seed": 1, "device": "cpu"}
    given = ["--train", subset.train, "--test", subset.test, "--about", subset.about, "--partition", subset.partition]
    given += ["--noise", folder / "noise.json", "--progress", folder / "progress", "--stamp", "code"]
    for name, file in {**SAME, "cost": "cost.json"}.items():
        given += [f"--output-{name}", folder / file]
    command = [sys.executable, "-m", "ppml.stages", "train", "--spec", json.dumps(spec), "--seed", "0"]
    subprocess.run([*command, *map(str, given)], check=True)
    cost = json.loads((folder / "cost.json").read_text())
    return {name: (folder / file).read_bytes() for name, file in SAME.items()}, cost["peak_memory_mb"]


@pytest.mark.skipif(sys.platform != "linux", reason="the warm server needs Linux")
def test_training_gives_the_same_bytes_with_the_server_and_without(subset, real_data, tmp_path, monkeypatch):
    monkeypatch.setenv(parent.VARIABLE, str(os.getpid()))
    monkeypatch.setenv(VARIABLE, "")
    alone, _ = train(tmp_path / "alone", subset, real_data.dataset)
    server = warm.start()
    assert server and server.stdin
    served, memory = train(tmp_path / "served", subset, real_data.dataset)
    assert "torch" in Path(f"/proc/{server.pid}/maps").read_text(), "the server was not asked"
    assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1
    server.stdin.close()
    server.wait(5)
    assert served == alone
    assert memory > 100
