"""Sites on several machines: their folders, their certificates and their error lines."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ppml.errors import InvalidUpdate, UserError
from ppml.federation.engines import site as site_module
from ppml.federation.engines.credentials import AUTHORITY, Authority, make_credentials
from ppml.federation.engines.flower_processes import DeploymentFailed, private_folder
from ppml.federation.engines.site import SiteConfig, run_client, run_key_holder, run_server, write_credentials
from ppml.federation.engines.tunnel import Address, Tunnels, check_expiry, connect_tls, mutual_tls
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT, EndpointSpec, connect, serve_sockets
from ppml.stages.deployment_folders import split_job

from .test_engines import job_of

HOST = "127.0.0.1"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"{HOST}:{probe.getsockname()[1]}"


def prepare(folder: Path, arm: str = "encrypted", **names) -> SiteConfig:
    site = SiteConfig("", free_address(), free_address() if arm == "encrypted" else "", 3)
    before = os.umask(0)
    try:
        job = job_of(arm, folder / "job")
        write_credentials(folder, site, **names)
        split_job(job, folder, site)
    finally:
        os.umask(before)
    return site


# The folders.


def test_folder_of_a_site_holds_no_secret_of_another(tmp_path):
    prepare(tmp_path)
    files = {folder.name: {path.name for path in folder.iterdir()} for folder in tmp_path.iterdir()}
    lines = {"site.json", "job.json", "key-holder-authority.pem", "party.pem", "party.key"}
    model = {"initial.safetensors"}
    keys = {f"client{one}.pub" for one in range(3)}
    server = {"server.seed", "server.pem", "server.key", "server-authority.pem"}
    client = {"test.safetensors", "node.key", "server-authority.pem"}
    own = {one: {f"client{one}.seed", f"client{one}.safetensors"} for one in range(3)}
    assert files == {
        "key-holder": lines,
        "server": lines | model | keys | server,
        **{f"client{one}": lines | model | client | own[one] for one in range(3)},
    }
    secrets = [path.read_bytes() for path in tmp_path.glob("*/*") if path.suffix in (".key", ".seed")]
    assert len(secrets) == len(set(secrets)) == 5 + 4 + 1 + 3, "no two sites have the same secret"


def test_other_users_cannot_read_the_folders(tmp_path):
    prepare(tmp_path / "made", "cnn")
    for folder in (tmp_path / "made").iterdir():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made").glob("*/*")} == {0o600}


def test_copied_folder_becomes_private_before_its_use(tmp_path):
    prepare(tmp_path, "cnn")
    (tmp_path / "client0").chmod(0o755)
    SiteConfig.read(tmp_path / "client0", "client")
    assert stat.S_IMODE((tmp_path / "client0").stat().st_mode) == 0o700


def test_folder_of_another_role_is_refused(tmp_path):
    prepare(tmp_path, "cnn")
    with pytest.raises(DeploymentFailed, match="this folder belongs to the client"):
        run_server(tmp_path / "client0", "nothing")
    with pytest.raises(DeploymentFailed, match="no such file"):
        run_client(tmp_path / "other", "nothing")


@pytest.mark.parametrize("text", ["", "server", "server:", ":9092", "server:0", "server:65536", "server:http"])
def test_invalid_address_is_refused(text):
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        Address.parse(text)


# Certificates of the sites.


class Echo:
    """A handler that returns the request."""

    def answer(self, code: bytes, content: bytes) -> bytes:
        return code + content


@contextlib.contextmanager
def start_service(job: str):
    """Run a process with the endpoints of a key holder: clients may send `o`, the server `a`."""
    endpoints = {CLIENT_ENDPOINT: EndpointSpec(frozenset({b"o"})), SERVER_ENDPOINT: EndpointSpec(frozenset({b"a"}))}
    with serve_sockets("party", Echo, Path(job).parent, endpoints):
        yield


class Holder:
    """The tunnels of the key holder, as in `hold-keys`."""

    def __init__(self, folder: Path, site: SiteConfig) -> None:
        self._stack, own = contextlib.ExitStack(), folder / "key-holder"
        listener = self._stack.enter_context(site_module._listen(site.key_holder))
        self._stack.enter_context(start_service(str(own / "job.json")))
        tunnels = self._stack.enter_context(Tunnels())
        self.changes: list[tuple[str, int]] = []
        endpoints = {"server": SERVER_ENDPOINT, **{f"client{one}": CLIENT_ENDPOINT for one in range(3)}}
        tunnels.serve_key_holder(
            listener,
            mutual_tls(own, listens=True),
            {name: own / endpoint for name, endpoint in endpoints.items()},
            lambda name, change: self.changes.append((name, change)),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()


def forward(tunnels: Tunnels, folder: Path, site: SiteConfig, name: str, endpoint: str) -> None:
    """Forward an endpoint of the key holder to the site ``name``."""
    context = mutual_tls(folder / name, listens=False)
    tunnels.forward_key_holder(folder / name / endpoint, Address.parse(site.key_holder), context)


def test_tunnel_leads_each_site_to_its_endpoint(tmp_path):
    site = prepare(tmp_path)
    with Holder(tmp_path, site) as holder, Tunnels() as tunnels:
        forward(tunnels, tmp_path, site, "client1", CLIENT_ENDPOINT)
        forward(tunnels, tmp_path, site, "server", SERVER_ENDPOINT)
        client = connect("party", tmp_path / "client1" / CLIENT_ENDPOINT)
        server = connect("party", tmp_path / "server" / SERVER_ENDPOINT)
        large = os.urandom(5_000_000)
        assert client.ask(b"o", large) == b"o" + large
        assert server.ask(b"a", b"name") == b"aname"
        for line, forbidden in ((client, b"a"), (server, b"o")):
            with pytest.raises(InvalidUpdate):
                line.ask(forbidden)
        assert ("server", 1) in holder.changes and ("client1", 1) in holder.changes
        known = json.loads((tmp_path / "client1" / CLIENT_ENDPOINT).read_text())
        assert stat.S_IMODE((tmp_path / "client1" / CLIENT_ENDPOINT).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(known["address"]).parent.stat().st_mode) == 0o700
        client.close(), server.close()
    assert not (tmp_path / "client1" / CLIENT_ENDPOINT).exists() and not Path(known["address"]).exists()


def test_tunnels_end_silently_with_open_connections(tmp_path, caplog):
    site = prepare(tmp_path)
    with Tunnels() as tunnels:
        with Holder(tmp_path, site):
            forward(tunnels, tmp_path, site, "server", SERVER_ENDPOINT)
            line = connect("party", tmp_path / "server" / SERVER_ENDPOINT)
            assert line.ask(b"a") == b"a"
        line.close()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def spoil_credentials(fault: str, folder: Path, site: SiteConfig) -> None:
    """Give client 0 credentials that are not valid for this training."""
    own = folder / "client0"
    now = datetime.datetime.now(datetime.UTC)
    match fault:
        case "another authority for both":
            other = Authority("authority of the key holder")
            (own / "key-holder-authority.pem").write_bytes(other.certificate)
            other.issue_client_certificate(own / "party.pem", "client0")
        case "a certificate of another authority":
            other = Authority("authority of the key holder")
            other.issue_client_certificate(own / "party.pem", "client0")
        case "an expired certificate":
            past = Authority("authority of the key holder", now - datetime.timedelta(hours=1))
            past.issue_client_certificate(own / "party.pem", "client0")
        case "an unknown name":
            authority = Authority("authority of the key holder")
            for name in ("client0", "key-holder"):
                (folder / name / "key-holder-authority.pem").write_bytes(authority.certificate)
            authority.issue_server_certificate(folder / "key-holder" / "party.pem", "key holder", [HOST])
            authority.issue_client_certificate(own / "party.pem", "client7")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("another authority for both", "shows an invalid certificate: "),
        ("a certificate of another authority", "rejects this site"),
        ("an expired certificate", "expired on .* make new folders"),
        ("an unknown name", "rejects this site"),
    ],
)
def test_site_with_wrong_credentials_is_rejected(fault, message, tmp_path):
    site = prepare(tmp_path)
    spoil_credentials(fault, tmp_path, site)
    with Holder(tmp_path, site) as holder, Tunnels() as tunnels:
        with pytest.raises(DeploymentFailed, match=message) as caught:
            forward(tunnels, tmp_path, site, "client0", CLIENT_ENDPOINT)
        assert "\n" not in str(caught.value)
        assert holder.changes == [] and not (tmp_path / "client0" / CLIENT_ENDPOINT).exists()


def test_machine_without_certificate_gets_no_reply(tmp_path):
    site, address = prepare(tmp_path), None
    address = Address.parse(site.key_holder)
    context = ssl.create_default_context(cafile=str(tmp_path / "client0" / "key-holder-authority.pem"))
    with Holder(tmp_path, site) as holder:
        with pytest.raises((DeploymentFailed, OSError)), connect_tls("key holder", address, context) as line:
            line.sendall(b"k")
            assert line.recv(32) == b""
            raise OSError("no reply")
        with socket.create_connection((address.host, address.port)) as plain:
            plain.sendall(b"k" * 64)
            plain.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert len(plain.recv(64)) <= 7, "at most a TLS alert"
        assert holder.changes == []


# Certificates of the server.


@contextlib.contextmanager
def tls_server(credentials: Path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credentials / "server.pem", credentials / "server.key")
    with socket.create_server((HOST, 0)) as listener, Tunnels() as tunnels:

        async def receive(streams):
            await streams[0].read()

        tunnels._serve(listener, receive, context)
        yield Address(HOST, listener.getsockname()[1])


@pytest.mark.parametrize(
    ("names", "mine", "hours", "message"),
    [
        ([HOST], True, 48, ""),
        (["other.example.org"], True, 48, "make new folders with 127.0.0.1"),
        ([HOST], False, 48, "use a folder from the same `prepare`"),
        ([HOST], True, -1, "make new folders .*or set the clock"),
    ],
    ids=["valid", "another name", "another authority", "expired"],
)
def test_client_connects_only_to_the_server_of_its_training(names, mine, hours, message, tmp_path):
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    made = make_credentials(tmp_path / "made", 1, names=names, expires=end)
    other = make_credentials(tmp_path / "other", 1)
    context = ssl.create_default_context(cafile=str((made if mine else other) / AUTHORITY))
    with tls_server(made) as address:
        refused = pytest.raises(DeploymentFailed, match=message) if message else contextlib.nullcontext()
        with refused as caught, connect_tls("server", address, context):
            pass
    assert caught is None or "\n" not in str(caught.value)


def test_expired_certificate_is_refused_at_the_start(tmp_path):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    made = make_credentials(tmp_path, 1, expires=past)
    with pytest.raises(DeploymentFailed, match=r"server\.pem: this certificate expired on"):
        check_expiry(made / "server.pem")


def test_missing_server_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(site_module, "WAIT_SECONDS", 0.5)
    site, lines = prepare(tmp_path, "cnn"), []
    port = site.server.rpartition(":")[2]
    with pytest.raises(DeploymentFailed, match=f"does not answer: .*`serve`.*port {port} "):
        run_client(tmp_path / "client0", "nothing", notice=lines.append)
    assert lines == [f"waiting for the server at {site.server} (Connection refused)"]


def test_unknown_host_name_is_refused_at_once(tmp_path):
    nowhere = Address("server.invalid", 9092)
    with (
        pytest.raises(DeploymentFailed, match="the host name is unknown"),
        connect_tls("server", nowhere, ssl.create_default_context()),
    ):
        pass


@pytest.mark.parametrize("role", ["server", "key holder"])
def test_used_port_is_named_with_the_remedy(role, tmp_path):
    site = prepare(tmp_path)
    address = Address.parse(site.server if role == "server" else site.key_holder)
    refused = pytest.raises(DeploymentFailed, match=f"{address}: cannot listen: .*another program")
    with socket.create_server((address.host, address.port)), refused as caught:
        if role == "server":
            run_server(tmp_path / "server", "nothing")
        else:
            run_key_holder(tmp_path / "key-holder", start_service)
    assert "\n" not in str(caught.value)


def test_address_of_another_machine_is_named_with_the_remedy(tmp_path):
    site = SiteConfig("server", "203.0.113.7:9092", "", 1)
    write_credentials(tmp_path, site)
    with pytest.raises(DeploymentFailed, match=r"cannot listen: .*--listen 0\.0\.0\.0:9092"):
        run_server(tmp_path / "server", "nothing")


def test_key_holder_ends_after_the_server_disconnects(tmp_path, monkeypatch):
    monkeypatch.setattr(site_module, "LAST_SECONDS", 0.3)
    site, lines = prepare(tmp_path), []
    private_folder(tmp_path / "server")

    def connect_once(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            with Tunnels() as tunnels:
                forward(tunnels, tmp_path, site, "server", SERVER_ENDPOINT)
                line = connect("party", tmp_path / "server" / SERVER_ENDPOINT)
                assert line.ask(b"a") == b"a"
                line.close()

    run_key_holder(tmp_path / "key-holder", start_service, notice=connect_once)
    assert lines[-1].startswith("the server has disconnected")
    assert not list((tmp_path / "key-holder").glob("holder-for-*")), "no endpoint remains"


# The command.


@pytest.fixture(scope="module")
def federate():
    return importlib.import_module("ppml.pipeline.federate")


def test_folder_with_foreign_files_is_not_emptied(federate, tmp_path):
    (tmp_path / "client0").mkdir()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"has 'thesis\.tex'"):
        federate.empty_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"client0", "thesis.tex"}
    (tmp_path / "thesis.tex").unlink()
    federate.empty_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [] and stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serve", "nowhere"], "error: serve: .*nowhere/site.json: no such file"),
        (["hold-keys", "nowhere", "--listen", "here"], "error: --listen: got 'here'; expected HOST:PORT"),
        (["prepare", "--arm", "fl", "--server", "here"], "error: --server: got 'here'; expected HOST:PORT"),
    ],
    ids=["no folder", "listen", "server"],
)
def test_invalid_command_is_one_line(arguments, line, tmp_path):
    command = [sys.executable, "-m", "ppml.pipeline.federate", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and re.match(line, done.stderr) and done.stderr.count("\n") == 1


def test_comparison_names_a_client_without_account(federate, tmp_path, monkeypatch):
    found = {"model": "a", "history": [], "events": [[], None]}
    monkeypatch.setattr(federate.Plan, "check", lambda content, files: None)
    monkeypatch.setattr(federate, "write_job", lambda plan, arm, seed, folder: tmp_path / "job.json")
    monkeypatch.setattr("ppml.stages.federation_job.start_key_service", lambda job: contextlib.nullcontext())
    monkeypatch.setattr(federate, "train_on_engine", lambda engine, job, folder, workers: found)
    monkeypatch.setattr(federate, "read_workflow_result", lambda plan, arm, seed, job: {**found, "events": [[], []]})
    with pytest.raises(UserError, match="client 1 gives no account"):
        federate.compare_engine(["--arm", "fl", "--engine", "deployment"])
