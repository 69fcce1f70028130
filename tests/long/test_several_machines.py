"""A server, two clients and a key holder, each on a simulated machine with its own address."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from ppml.federation.engines.credentials import AUTHORITY, make_credentials
from ppml.federation.engines.site import SiteConfig, write_credentials
from ppml.learning.parameters import digest_of
from ppml.learning.result import TrainingResult
from ppml.stages import federation_job
from ppml.stages.deployment_folders import needs_key_holder, split_job
from ppml.training import train

from ..federation.test_engines import CONTRACT, DATA, RNG, arm_of, foreign_images, noise_of, owners
from ..jobs.processes import soon
from .networks import machines, on
from .results import check_result

ROOT = Path(__file__).parents[2]
CLIENTS = 2
NAMES = ("server", "client0", "client1", "key-holder", "stranger")
SECONDS = 900.0


@pytest.fixture(scope="module")
def network():
    with machines(NAMES) as addresses:
        yield addresses


@cache
def in_process(name: str) -> TrainingResult:
    arm = arm_of(name)
    given = {"contract": CONTRACT, "rng": RNG, "data": DATA, "report": lambda row: None}
    return train(arm, owners()[:CLIENTS], noise_of(arm)[:CLIENTS], foreign_images(), **given)


def prepare(folder: Path, name: str, addresses: dict[str, str], answer_seconds: float = 300.0) -> Path:
    arm = arm_of(name)
    job = federation_job.write_federation_job(
        folder / "job",
        arm,
        rng=RNG,
        data=DATA,
        contract=CONTRACT,
        owned=owners()[:CLIENTS],
        test=foreign_images(),
        calibrated={"noise_multipliers": noise_of(arm)[:CLIENTS]},
    )
    holder = f"{addresses['key-holder']}:9093" if needs_key_holder(job) else ""
    site = SiteConfig("", f"{addresses['server']}:9092", holder, CLIENTS, answer_seconds=answer_seconds)
    write_credentials(folder, site)
    split_job(job, folder, site)
    return folder


COMMANDS = {"server": "serve", "key-holder": "hold-keys", "client0": "join", "client1": "join"}


class Sites:
    """The processes of the sites, which end with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[str]] = {}

    def start(self, *names: str, **environment: str) -> None:
        for name in names:
            command = [sys.executable, "-m", "ppml.pipeline.federate", COMMANDS[name], str(self.folder / name)]
            with (self.folder / f"{name}.log").open("a") as log:
                self.running[name] = subprocess.Popen(
                    on(name, *command), stdout=log, stderr=log, text=True, env={**os.environ, **environment}
                )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def wait(self, *names: str) -> list[int]:
        return [self.running[name].wait(timeout=SECONDS) for name in names]

    def wait_for_round(self, number: int) -> None:
        server = self.running["server"]
        assert soon(lambda: self.rounds() >= number or server.poll() is not None, SECONDS)
        assert self.rounds() >= number, self.log("server")

    def rounds(self) -> int:
        return len(self.result().get("history", []))

    def result(self) -> dict:
        path = self.folder / "server" / "result.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def kill(self, name: str, how: int = signal.SIGKILL) -> None:
        self.running.pop(name).send_signal(how)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=60)


def remaining_processes(folder: Path) -> list[str]:
    """Return the processes with the folder of a deployment in their environment or command."""
    running = psutil.process_iter(["cmdline", "environ"])
    return [" ".join(one.info["cmdline"] or ()) for one in running if str(folder) in str(one.info)]


def check_no_process_remains(folder: Path) -> None:
    assert soon(lambda: not remaining_processes(folder), 60), remaining_processes(folder)


def check_sites(found: dict, folder: Path, name: str) -> None:
    check_result(found, in_process(name))
    for client in range(CLIENTS):
        weights = load_file(folder / f"client{client}" / "model.safetensors")["weights"]
        assert digest_of(weights.numpy()) == found["model"], "each site has the same model"


@pytest.mark.parametrize("name", ["private", "encrypted"])
def test_training_with_killed_site_has_same_bits(name, network, tmp_path):
    folder = prepare(tmp_path, name, network)
    others = ["server", "client0", "client1"] + ["key-holder"] * (name == "encrypted")
    begun = time.monotonic()
    with Sites(folder) as running:
        # The order is arbitrary: each site waits for the others.
        running.start(*reversed(others), https_proxy="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9")
        running.wait_for_round(1)
        attack(running, network)
        running.kill("client1")
        check_no_process_remains(folder / "client1")
        running.start("client1")
        assert running.wait(*others) == [0] * len(others), {one: running.log(one) for one in others}
        check_sites(running.result(), folder, name)
    check_no_process_remains(folder)
    print(f"{name}: {time.monotonic() - begun:.0f} s, a site killed")


NODE = """
import httpx, ssl, sys
from flwr.proto import fleet_pb2, node_pb2
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

private, public = generate_key_pairs()
key, node = public_key_to_bytes(public), node_pb2.Node(node_id=int(sys.argv[2]))
both = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(private, public)]
for interceptors in (both, both[:1]):
    client = FleetHttpClient(sys.argv[1], verify=False, interceptors=interceptors)
    for ask in (
        lambda: client.RegisterNode(fleet_pb2.RegisterNodeFleetRequest(public_key=key)),
        lambda: client.ActivateNode(fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30)),
        lambda: client.PullMessages(fleet_pb2.PullMessagesRequest(node=node)),
        lambda: client.PushMessages(fleet_pb2.PushMessagesRequest(node=node)),
        lambda: client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=node.node_id)),
    ):
        try:
            print("accepted:", ask())
        except httpx.HTTPStatusError as error:
            print("refused", error.response.status_code)
plain = httpx.Client(verify=False)
for path in ("pull-messages", "push-messages", "deactivate-node"):
    print("accepted" if plain.post(f"{sys.argv[1]}/v1/fleet/{path}", content=b"").is_success else "refused")
"""


def impersonate(network: dict[str, str], node: str) -> list[str]:
    """Return the replies to a stranger with another key that impersonates a node of the training."""
    command = on("stranger", sys.executable, "-c", NODE, f"https://{network['server']}:9092", node)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def attack(running: Sites, network: dict[str, str]) -> None:
    """Send forbidden requests to the server, as a stranger and as a client of the training."""
    nodes = json.loads((running.folder / "server" / "flower" / "nodes.json").read_text())
    answers = impersonate(network, next(iter(nodes)))
    assert len(answers) == 13 and all(answer.startswith("refused") for answer in answers), answers
    context = "import ssl; context = ssl._create_unverified_context()\n"
    for path in ("control/start-run", "control/register-node", "control/list-runs", "runtime/acquire-task"):
        code = (
            f"{context}import urllib.request, urllib.error\n"
            f"request = urllib.request.Request('https://{network['server']}:9092/v1/{path}', data=b'')\n"
            "try:\n    print(urllib.request.urlopen(request, context=context, timeout=30).status)\n"
            "except urllib.error.HTTPError as error:\n    print(error.code)\n"
        )
        for name in ("stranger", "client0"):
            done = subprocess.run(on(name, sys.executable, "-c", code), capture_output=True, text=True, check=True)
            assert done.stdout.strip() == "403", (path, done.stdout)


def test_rounds_continue_without_a_missing_site(network, tmp_path):
    folder = prepare(tmp_path, "cnn", network, answer_seconds=30.0)
    with Sites(folder) as running:
        running.start("server", "client0", "client1")
        running.wait_for_round(1)
        running.kill("client1")
        assert running.wait("server", "client0") == [0, 0], running.log("server")
        found = running.result()
    answered = [row["clients"] for row in found["history"]]
    assert len(answered) == 3 and answered[0] == 2 and answered[-1] == 1
    assert "client 1 reports no valid account of its training" in found["notices"]
    check_no_process_remains(folder)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_server_leaves_no_process(how, network, tmp_path, monkeypatch):
    folder = prepare(tmp_path, "encrypted", network)
    with Sites(folder) as running:
        running.start("key-holder", "server", "client0")
        assert soon(lambda: "takes part" in running.log("client0"), SECONDS)
        server = running.running["server"]
        running.kill("server", how)
        assert server.wait(timeout=60) != 0
        check_no_process_remains(folder / "server")
        last = running.log("server").splitlines()[-1]
        assert how == signal.SIGKILL or (last.startswith("error: serve: stopped")), last
        running.kill("client0", signal.SIGINT)
        check_no_process_remains(folder / "client0")
    check_no_process_remains(folder)


def error_line(running: Sites, name: str) -> str:
    """Start a site that must end with one error line, and return this line."""
    running.start(name)
    assert running.wait(name) == [1]
    (line,) = [line for line in running.log(name).splitlines() if line.startswith("error")]
    return line


def test_wrong_address_or_certificate_is_one_line(network, tmp_path):
    folder = prepare(tmp_path, "cnn", network)
    with Sites(folder) as running:
        running.start("server")
        other = make_credentials(tmp_path / "other", 1)
        key = (folder / "client0" / "node.key").read_bytes()
        (folder / "client1" / "server-authority.pem").write_bytes((other / AUTHORITY).read_bytes())
        assert "shows an invalid certificate" in error_line(running, "client1")
        site = json.loads((folder / "client0" / "site.json").read_text())
        (folder / "client0" / "site.json").write_text(json.dumps({**site, "server": "server.invalid:9092"}))
        assert "the host name is unknown" in error_line(running, "client0")
        (folder / "client0" / "site.json").write_text(json.dumps(site))
        assert key == (folder / "client0" / "node.key").read_bytes()
    check_no_process_remains(folder)
