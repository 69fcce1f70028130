"""On a machine with other users: what they can reach, read and start of a deployment."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppml.errors import UserError
from ppml.federation.engines import flower_programs as programs
from ppml.federation.engines import namespaces as enclosure
from ppml.federation.engines.flower_processes import (
    DeploymentFailed,
    boxed,
    environment_of,
    flwr,
    private_folder,
    without_proxies,
)
from ppml.federation.engines.namespaces import enclosing

NOBODY = 65534

LISTENS = """
import socket, sys
from ppml.federation.engines.namespaces import raise_loopback
raise_loopback()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
with socket.create_connection(listener.getsockname()):
    print("reached from inside", flush=True)
sys.stdin.read()
"""


def can_enclose() -> bool:
    try:
        enclosing()
    except UserError:
        return False
    return True


encloses = pytest.mark.skipif(not can_enclose(), reason="no namespaces can be made here")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user can be played by root alone")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_another_user(code: str, *arguments: str) -> str:
    """Return what ``code`` prints, run by a user that owns nothing; modules are imported before."""
    begin = (
        f"import encodings.idna, os, pathlib, socket, sys\nos.setgroups([])\nos.setgid({NOBODY})\nos.setuid({NOBODY})\n"
    )
    command = [sys.executable, "-c", begin + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


CONNECTS = "print(os.strerror(socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1])))))"


def reached_by_another_user(begin: tuple[str, ...]) -> str:
    port = free_port()
    command = [*begin, sys.executable, "-c", LISTENS, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "listening\n"
        assert process.stdout.readline() == "reached from inside\n"
        found = as_another_user(CONNECTS, str(port))
        process.stdin.close()
        process.wait(timeout=30)
    return found


@encloses
@as_root
def test_a_port_in_an_enclosure_is_reached_from_inside_alone():
    assert reached_by_another_user(enclosing()) == "Connection refused"
    assert reached_by_another_user(()) == "Success", "without the enclosure another user gets in"


@encloses
def test_the_end_of_the_first_process_ends_all_others():
    seconds = f"4321.{os.getpid()}"
    code = f"import subprocess, time; subprocess.Popen(['sleep', '{seconds}']); print(1, flush=True); time.sleep(600)"
    with subprocess.Popen([*enclosing(), sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            assert becomes(1, seconds)
        finally:
            process.kill()
    assert becomes(0, seconds)


def becomes(count: int, argument: str) -> bool:
    deadline = time.monotonic() + 20
    while running(argument) != count and time.monotonic() < deadline:
        time.sleep(0.1)
    return running(argument) == count


def running(argument: str) -> int:
    return sum(argument in command.split("\0") for command in command_lines().values())


def command_lines() -> dict[int, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(path.parent.name)] = path.read_text("utf-8", "replace")
        except OSError:
            continue
    return found


@pytest.mark.parametrize("fault", ["no program", "not allowed"])
def test_where_no_enclosure_can_be_made_the_deployment_is_refused_in_one_line(fault, monkeypatch, tmp_path):
    def refuses(command, **named):
        return subprocess.CompletedProcess(command, 1, "", "unshare: unshare failed: Operation not permitted\n")

    if fault == "no program":
        monkeypatch.setattr(enclosure.shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(enclosure.subprocess, "run", refuses)
    enclosing.cache_clear()
    try:
        with pytest.raises(UserError, match=r"every user could register a node.*user namespaces") as caught:
            enclosing()
    finally:
        enclosing.cache_clear()
    assert "\n" not in str(caught.value)
    assert ("Operation not permitted" in str(caught.value)) == (fault == "not allowed")


# What the programs serve, and what other users see of them.


def status(app: programs.WebApp, port: int, path: str, kind: str = "http") -> int:
    said: list[dict] = []

    async def send(event):
        said.append(event)

    asyncio.run(app({"type": kind, "server": ("10.0.0.1", port), "path": path}, None, send))
    return next((event["status"] for event in said), 0)


async def everything(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/docs",
        "/",
        "/v1/fleet/../x/y",
    ],
)
def test_other_machines_reach_the_interface_of_nodes_alone(path):
    app = programs.nodes_alone(everything, 9092)
    assert status(app, 9092, path) == 200, "the site itself reaches all"
    assert status(app, 9093, path) == 403
    assert status(app, 9093, "/v1/fleet/pull-messages") == 200
    assert status(app, 9093, "/v1/fleet/pull-messages", "websocket") == 0


TASKS = """
import sys, time
from multiprocessing import Pipe
from ppml.ipc.hardening import seclude
from ppml.federation.engines import flower_programs as programs
import os
seclude()
here, there = Pipe()
if os.fork() == 0:
    here.close()
    programs.PROGRAMS["task"] = lambda: (print(os.getpid(), sys.argv[2], flush=True), time.sleep(60))
    programs._fork_tasks(there)
there.close()
here.recv()
here.send((["task", "--token", "5ec2e7" * 8], False))
time.sleep(60)
"""


@as_root
def test_no_other_user_reads_the_token_of_a_task_nor_its_environment():
    environment = {**os.environ, "PPML_APP": "json"}
    with subprocess.Popen([sys.executable, "-c", TASKS], stdout=subprocess.PIPE, text=True, env=environment) as process:
        task, token = process.stdout.readline().split()
        assert token == "5ec2e7" * 8
        seen = as_another_user(READS, task)
        process.kill()
    os.kill(int(task), 9)
    assert token not in seen
    assert [line for line in seen.splitlines() if line in FILES] == []


FILES = ["environ", "mem", "maps"]
READS = """
print(" ".join(pathlib.Path(f"/proc/{sys.argv[1]}/cmdline").read_text().split("\\0")))
for name in ["environ", "mem", "maps"]:
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb") as file:
            print(name)
    except PermissionError:
        pass
"""


@as_root
def test_a_token_in_a_command_line_would_be_seen():
    code = "import time; print('up', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "--token", "5ec2e7" * 8]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        seen = as_another_user(READS, str(process.pid))
        process.kill()
    assert "5ec2e7" * 8 in seen


def test_what_a_site_writes_is_for_its_owner_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        environment = environment_of(private_folder(tmp_path / "site"))
    finally:
        os.umask(before)
    for name in ("FLWR_HOME", "TMPDIR"):
        assert environment[name].startswith(str(tmp_path / "site"))
    made = [tmp_path / "site", *(tmp_path / "site").rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in made} == {0} and len(made) >= 7


def test_flower_has_no_home_that_another_user_can_have_made_before():
    code = "import os, ppml.federation.flower_env; print(os.environ['FLWR_HOME'])"
    environment = {name: value for name, value in os.environ.items() if name != "FLWR_HOME"}
    homes = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(2)
    }
    assert len(homes) == 2


# Proxies, and what Flower says.

PROXIES = [
    "http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY",
    "ftp_proxy", "no_grpc_proxy", "no_proxy", "wss_proxy",
]  # fmt: skip


@pytest.mark.parametrize("name", PROXIES)
def test_the_processes_of_a_site_talk_directly(name):
    found = without_proxies({name: "http://127.0.0.1:9", "PATH": "/bin", "MY_PROXY_SETTING": "kept"})
    assert found == {"PATH": "/bin", "MY_PROXY_SETTING": "kept", "no_proxy": "*", "NO_PROXY": "*"}


def test_the_message_of_a_command_that_fails_is_the_text_in_flower_s_box(tmp_path, monkeypatch):
    """The address of a server that is not there, with a proxy in the environment that is not there either."""
    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    environment = environment_of(private_folder(tmp_path / "site"))
    config = Path(environment["FLWR_HOME"]) / "config.toml"
    address = f"127.0.0.1:{free_port()}"
    config.write_text(f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\ninsecure = true\n')
    with pytest.raises(DeploymentFailed, match=r"`flwr list` failed: .*[Cc]onnect") as caught:
        flwr(environment, "list", "here")
    assert not set(str(caught.value)) & set("╭╮╰╯─│\n")


def test_text_without_a_box_is_kept_as_it_is():
    assert boxed("Traceback\n  one\nValueError: two\n") == "Traceback one ValueError: two"
    assert boxed("╭─ Error ─╮\n│ a  b     │\n╰─────────╯\n") == "a  b"
