"""Isolation of a deployment from other users of the machine."""

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
from ppml.federation.engines import namespaces
from ppml.federation.engines.flower_processes import (
    DeploymentFailed,
    flower_environment,
    private_folder,
    run_flwr,
    unbox,
    without_proxies,
)
from ppml.federation.engines.namespaces import namespace_command

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


def has_namespaces() -> bool:
    try:
        namespace_command()
    except UserError:
        return False
    return True


needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="this system does not allow namespaces")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run code as another user")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_another_user(code: str, *arguments: str) -> str:
    """Return the output of ``code``, run by a user without rights after its imports."""
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


@needs_namespaces
@as_root
def test_only_processes_in_the_namespaces_reach_their_port():
    assert reached_by_another_user(namespace_command()) == "Connection refused"
    assert reached_by_another_user(()) == "Success", "without namespaces another user connects"


@needs_namespaces
def test_all_processes_end_with_the_first_one():
    seconds = f"4321.{os.getpid()}"
    code = f"import subprocess, time; subprocess.Popen(['sleep', '{seconds}']); print(1, flush=True); time.sleep(600)"
    with subprocess.Popen([*namespace_command(), sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
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
def test_missing_namespaces_are_one_line(fault, monkeypatch, tmp_path):
    def refuses(command, **named):
        return subprocess.CompletedProcess(command, 1, "", "unshare: unshare failed: Operation not permitted\n")

    if fault == "no program":
        monkeypatch.setattr(namespaces.shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(namespaces.subprocess, "run", refuses)
    namespace_command.cache_clear()
    try:
        with pytest.raises(UserError, match=r"every user could register a node.*user namespaces") as caught:
            namespace_command()
    finally:
        namespace_command.cache_clear()
    assert "\n" not in str(caught.value)
    assert ("Operation not permitted" in str(caught.value)) == (fault == "not allowed")


# The programs.


def status(app, port: int, path: str, kind: str = "http") -> int:
    events: list[dict] = []

    async def send(event):
        events.append(event)

    asyncio.run(app({"type": kind, "server": ("10.0.0.1", port), "path": path}, None, send))
    return next((event["status"] for event in events), 0)


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
def test_other_machines_reach_only_the_fleet_api(path):
    app = programs.restrict_to_fleet_api(everything, 9092)
    assert status(app, 9092, path) == 200, "the site reaches all APIs"
    assert status(app, 9093, path) == 403
    assert status(app, 9093, "/v1/fleet/pull-messages") == 200
    assert status(app, 9093, "/v1/fleet/pull-messages", "websocket") == 0


TASKS = """
import sys, time
from ppml.ipc.hardening import harden_process
from ppml.ipc.process import ChildProcess
from ppml.federation.engines import flower_programs as programs
import os
harden_process()
programs.PROGRAMS["task"] = lambda: (print(os.getpid(), sys.argv[2], flush=True), time.sleep(60))
(commands,) = ChildProcess("tasks", programs._fork_tasks).connections
commands.recv()
commands.send((["task", "--token", "5ec2e7" * 8], False))
time.sleep(60)
"""


@as_root
def test_other_user_reads_neither_token_nor_environment_of_a_task():
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
def test_token_in_a_command_line_is_visible():
    code = "import time; print('up', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "--token", "5ec2e7" * 8]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        seen = as_another_user(READS, str(process.pid))
        process.kill()
    assert "5ec2e7" * 8 in seen


def test_files_of_a_site_are_private_for_any_umask(tmp_path):
    before = os.umask(0)
    try:
        environment = flower_environment(private_folder(tmp_path / "site"))
    finally:
        os.umask(before)
    for name in ("FLWR_HOME", "TMPDIR"):
        assert environment[name].startswith(str(tmp_path / "site"))
    made = [tmp_path / "site", *(tmp_path / "site").rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in made} == {0} and len(made) >= 7


def test_flower_home_has_an_unpredictable_name():
    code = "import os, ppml.federation.flower_env; print(os.environ['FLWR_HOME'])"
    environment = {name: value for name, value in os.environ.items() if name != "FLWR_HOME"}
    homes = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(2)
    }
    assert len(homes) == 2


# Proxies, and Flower's messages.

PROXIES = [
    "http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY",
    "ftp_proxy", "no_grpc_proxy", "no_proxy", "wss_proxy",
]  # fmt: skip


@pytest.mark.parametrize("name", PROXIES)
def test_processes_of_a_site_use_no_proxy(name):
    found = without_proxies({name: "http://127.0.0.1:9", "PATH": "/bin", "MY_PROXY_SETTING": "kept"})
    assert found == {"PATH": "/bin", "MY_PROXY_SETTING": "kept", "no_proxy": "*", "NO_PROXY": "*"}


def test_error_of_a_command_is_the_text_in_the_box(tmp_path, monkeypatch):
    """Neither the server nor the proxy of the environment exists."""
    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    environment = flower_environment(private_folder(tmp_path / "site"))
    config = Path(environment["FLWR_HOME"]) / "config.toml"
    address = f"127.0.0.1:{free_port()}"
    config.write_text(f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\ninsecure = true\n')
    with pytest.raises(DeploymentFailed, match=r"`flwr list` failed: .*[Cc]onnect") as caught:
        run_flwr(environment, "list", "here")
    assert not set(str(caught.value)) & set("╭╮╰╯─│\n")


def test_text_without_a_box_is_unchanged():
    assert unbox("Traceback\n  one\nValueError: two\n") == "Traceback one ValueError: two"
    assert unbox("╭─ Error ─╮\n│ a  b     │\n╰─────────╯\n") == "a  b"
