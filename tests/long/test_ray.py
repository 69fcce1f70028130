"""Ray's processes: other users cannot reach their ports, and a program without the token cannot join them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ppml.federation.engines.namespaces import namespace_command
from ppml.stages.federation_job import start_key_service

from ..federation.test_engines import job_of, outcome
from .results import check_result

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install flwr[simulation]"
)
LISTENS = "0A"


def listening() -> set[str]:
    """Return the listening addresses of this network namespace."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == LISTENS}


def new_addresses(command: list[str]) -> set[str]:
    """Return the listening addresses that appear while a command runs."""
    before, seen = listening(), set[str]()
    with subprocess.Popen(command) as process:
        ended = threading.Event()
        threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True).start()
        while not ended.wait(0.2):
            seen |= listening() - before
    assert process.returncode == 0
    return seen


@pytest.mark.parametrize("name", ["cnn", "encrypted"])
def test_ray_training_has_same_bits_and_no_visible_port(name, tmp_path):
    job, result = job_of(name, tmp_path / "job"), tmp_path / "result.json"
    stage = [sys.executable, "-P", "-m", "ppml.stages.ray_training", str(job), str(result), "2"]
    with start_key_service(str(job)):
        assert new_addresses([*namespace_command(), *stage]) == set()
    check_result(json.loads(result.read_text()), outcome(name))


def test_without_namespaces_the_ports_are_visible(tmp_path):
    job = job_of("cnn", tmp_path / "job")
    stage = [sys.executable, "-P", "-m", "ppml.stages.ray_training", str(job), str(tmp_path / "result.json"), "1"]
    assert len(new_addresses(stage)) >= 3


SERVES = """
import sys
from ppml.federation.engines.ray import private_session
if sys.argv[1] == "token":
    print(oct((private_session() / "token").stat().st_mode), oct(private_session().stat().st_mode), flush=True)
import ray
print(ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False).address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
JOINS = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print(ray.cluster_resources()['CPU'])"


def join(mode: str, **environment: str) -> tuple[bool, str]:
    """Return whether a program without the token joins, and Ray's errors; Ray requires a token in mode `token`."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", SERVES, mode]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=plain, **pipes) as server:
        if mode == "token":
            assert server.stdout.readline().split() == ["0o100600", "0o40700"]
        address = server.stdout.readline().strip()
        guest = [sys.executable, "-c", JOINS, address]
        done = subprocess.run(guest, capture_output=True, text=True, check=False, env={**plain, **environment})
        server.stdin.close()
    return done.returncode == 0 and done.stdout.strip() == "1.0", done.stderr


@pytest.mark.parametrize("other", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}], ids=["none", "another"])
def test_program_without_the_token_cannot_join(other):
    joined, errors = join("token", **other)
    assert not joined and ("uthenticat" in errors or "token" in errors), errors[-2000:]


def test_program_joins_where_no_token_is_required():
    assert join("open")[0]
