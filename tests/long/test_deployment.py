"""A SuperLink and SuperNodes on this machine: TLS, keys, the same bits, and no remaining process."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppml.federation.engines import deployment
from ppml.federation.engines.credentials import AUTHORITY, make_credentials
from ppml.federation.engines.deployment import run_deployed
from ppml.federation.engines.flower_processes import DeploymentFailed, private_folder
from ppml.federation.engines.namespace_init import ServerJob
from ppml.stages.federation_job import start_key_service

from ..federation.test_engines import job_of, outcome
from ..jobs.processes import soon
from .results import check_result

MODULE = "ppml.stages.flower_apps"
SECONDS = 900.0


def deploy(tmp_path: Path, name: str = "cnn", **others: object) -> dict:
    job, result = job_of(name, tmp_path / "job"), tmp_path / "result.json"
    with start_key_service(str(job)):
        run_deployed(tmp_path / "sites", MODULE, job, result, 3, **{"seconds": SECONDS, **others})
    return json.loads(result.read_text())


def running() -> str:
    return subprocess.run(["pgrep", "-f", "flower-super"], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("name", ["cnn", "private", "encrypted"])
def test_deployment_has_same_bits_and_no_remaining_process(name, tmp_path):
    before = running()
    check_result(deploy(tmp_path, name), outcome(name))
    assert running() == before


def test_expired_certificates_are_refused(tmp_path):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    before = running()
    with pytest.raises(DeploymentFailed, match="certificate has expired") as caught:
        deploy(tmp_path, credentials=make_credentials(tmp_path / "expired", 3, expires=past))
    assert running() == before and "\n" not in str(caught.value)


def test_client_with_another_authority_is_refused(tmp_path):
    mine, theirs = make_credentials(tmp_path / "mine", 3), make_credentials(tmp_path / "theirs", 3)
    (mine / AUTHORITY).write_bytes((theirs / AUTHORITY).read_bytes())
    with pytest.raises(DeploymentFailed, match=r"shows an invalid certificate: ") as caught:
        deploy(tmp_path, credentials=mine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_command_leaves_no_process(number, tmp_path):
    before = running()
    job = job_of("cnn", tmp_path / "job")
    code = (
        "import signal, sys; from pathlib import Path; from ppml.federation.engines.deployment import run_deployed\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "run_deployed(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), 3, seconds=600)"
    )
    arguments = [str(tmp_path / "sites"), MODULE, str(job), str(tmp_path / "result.json")]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL) as command:
        assert soon((tmp_path / "sites" / "supernode2.log").exists, SECONDS)
        command.send_signal(number)
    assert soon(lambda: running() == before, 60)


# --- another user of the machine

ATTACK = r"""
import os, pathlib, socket, sys
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
import encodings.idna, httpx, httpcore._backends.sync

client = ControlHttpClient("https://127.0.0.1:9092", verify=False)
key = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    print("registered", client.RegisterNode(RegisterNodeRequest(public_key=key)).node_id > 0)
    print("listed", len(client.ListRuns(ListRunsRequest()).run_dict))
except httpx.HTTPError as error:
    print(type(error).__name__)
for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (path / "cmdline").read_bytes().split(b"\0")
        if b"ppml.federation.engines.flower_programs" in words:
            print("seen", "token" if any(b"token" in word for word in words) else "no token")
            (path / "environ").read_bytes()
            print("environment")
    except OSError:
        pass
for place in sys.argv[1:]:
    try:
        os.listdir(place)
        print("listed", place)
    except OSError:
        pass
"""


def attack_server(tmp_path: Path) -> list[str]:
    """Return the output of another user's attack on a server that waits for its clients."""
    files = make_credentials(private_folder(tmp_path / "sites") / "credentials", 3)
    job = job_of("cnn", tmp_path / "job")
    server = ServerJob(str(job), str(tmp_path / "result.json"), str(files), 3, seconds=600)
    with deployment.start_server(tmp_path / "sites", MODULE, server):
        assert soon((tmp_path / "sites" / "app").exists, SECONDS)
        # The server's app is a task; its process has the token.
        assert soon(lambda: "start-run" in (tmp_path / "sites" / "superlink.log").read_text(), SECONDS)
        time.sleep(10)
        folders = [str(tmp_path / "sites"), str(tmp_path / "job"), str(tmp_path / "sites" / "flower")]
        done = subprocess.run([sys.executable, "-c", ATTACK, *folders], capture_output=True, text=True, check=True)
    return sorted(set(done.stdout.splitlines()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run code as another user")
def test_other_user_can_neither_connect_nor_read(tmp_path):
    assert attack_server(tmp_path) == ["ConnectError", "seen no token"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run code as another user")
def test_without_namespaces_other_user_connects(tmp_path, monkeypatch):
    monkeypatch.setattr(deployment, "namespace_command", lambda: ("/usr/bin/env",))
    found = attack_server(tmp_path)
    assert "registered True" in found and "listed 1" in found
