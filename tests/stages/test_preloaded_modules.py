"""The preloaded modules of the fork server: they start no thread and no CUDA, and results stay the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppml.io.atomic import read_json, write_json
from ppml.ipc import parent_watch
from ppml.jobs import fork_server
from ppml.jobs.fork_client import ENV_SERVER
from ppml.pipeline.stages import STAGES

from .conftest import train_job

EVERYTHING = {
    "topology": {"kind": "federated", "partition": "p", "rounds": 2},
    "privacy": {"kind": "example", "noise_multiplier": 1.5, "accountant": "rdp", "max_grad_norm": 0.1},
    "aggregation": {"kind": "ckks"},
    "training": {"epochs": 1, "batch_size": 50, "learning_rate": 1.0},
}

IMPORT_ALL = """
import importlib, os, sys, threading
from ppml.jobs.threads import use_one_thread
use_one_thread()
for name in sys.argv[1:]:
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


def test_preloaded_modules_start_neither_a_thread_nor_cuda():
    names = dict.fromkeys(name for stage in STAGES for name in stage.preload)
    found = subprocess.run([sys.executable, "-c", IMPORT_ALL, *names], capture_output=True, text=True, check=True)
    assert found.stdout == "1 False\nFalse 1\n"


def train(folder: Path, subset, dataset: str) -> tuple[dict[str, bytes], float]:
    """Run the stage train as a job; return the reproducible files and the memory of the training."""
    folder.mkdir()
    write_json(folder / "noise.json", {"noise_multipliers": [1.5, 1.5]})
    job = train_job(folder, EVERYTHING, {**subset, "noise": folder / "noise.json"}, dataset)
    subprocess.run([sys.executable, "-m", "ppml.jobs", "train", *job.options()], check=True)
    cost = read_json(job.outputs["cost"])
    return {name: path.read_bytes() for name, path in job.outputs.items() if name != "cost"}, cost["training_memory_mb"]


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server needs Linux")
def test_fork_server_keeps_the_bytes_of_a_training(subset, real_data, tmp_path, monkeypatch):
    monkeypatch.setenv(parent_watch.ENV_PARENT, str(os.getpid()))
    monkeypatch.setenv(ENV_SERVER, "")
    alone, _ = train(tmp_path / "alone", subset, real_data.dataset)
    server = fork_server.start({stage.name: stage.preload for stage in STAGES})
    assert server and server.stdin
    served, memory = train(tmp_path / "served", subset, real_data.dataset)
    assert "torch" in Path(f"/proc/{server.pid}/maps").read_text(), "the server ran no job"
    assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1
    server.stdin.close()
    server.wait(5)
    assert served == alone
    assert 0 < memory < 100, "the loaded modules are no memory of the training"
