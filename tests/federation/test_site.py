"""Sites on several machines: what each folder holds, who is let in where, and what one line says when it is not."""

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
from ppml.federation.engines.credentials import Authority, make_credentials
from ppml.federation.engines.flower_processes import DeploymentFailed, private_folder
from ppml.federation.engines.site import Site, give_credentials, hold_keys, join, serve
from ppml.federation.engines.tunnel import Address, Identity, Tunnels, check_expiry, connected
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT, EndpointSpec, connect, serve_sockets
from ppml.stages.deployment_folders import split_job

from .test_engines import job_of

HOST = "127.0.0.1"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"{HOST}:{probe.getsockname()[1]}"


def prepared(folder: Path, arm: str = "encrypted", **names) -> Site:
    site = Site("", free_address(), free_address() if arm == "encrypted" else "", 3)
    before = os.umask(0)
    try:
        job = job_of(arm, folder / "job")
        give_credentials(folder, site, **names)
        split_job(job, folder, site)
    finally:
        os.umask(before)
    return site


# What a site gets.


def test_each_folder_holds_what_its_site_may_see_and_no_secret_of_another(tmp_path):
    prepared(tmp_path)
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
    assert len(secrets) == len(set(secrets)) == 5 + 4 + 1 + 3, "no secret is given to two sites"


def test_other_users_of_the_operator_s_machine_read_none_of_it(tmp_path):
    prepared(tmp_path / "made", "cnn")
    for folder in (tmp_path / "made").iterdir():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made").glob("*/*")} == {0o600}


def test_a_folder_that_was_carried_is_closed_to_others_before_it_is_used(tmp_path):
    prepared(tmp_path, "cnn")
    (tmp_path / "client0").chmod(0o755)
    Site.read(tmp_path / "client0", "client")
    assert stat.S_IMODE((tmp_path / "client0").stat().st_mode) == 0o700


def test_the_folder_of_another_role_and_one_that_was_not_prepared_are_named(tmp_path):
    prepared(tmp_path, "cnn")
    with pytest.raises(DeploymentFailed, match="this folder is that of the client; give the one of the server"):
        serve(tmp_path / "client0", "nothing")
    with pytest.raises(DeploymentFailed, match="no such file; give the folder of this site"):
        join(tmp_path / "elsewhere", "nothing")


@pytest.mark.parametrize("text", ["", "server", "server:", ":9092", "server:0", "server:65536", "server:http"])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        Address.parse(text)


# Certificates: who is let in.


class Echo:
    """A party that says what it was told."""

    def answer(self, what: bytes, content: bytes) -> bytes:
        return what + content


@contextlib.contextmanager
def holding(job: str):
    """Stand for the holder of a key: clients may ask `o`, the server `a`."""
    doors = {CLIENT_ENDPOINT: EndpointSpec(frozenset({b"o"})), SERVER_ENDPOINT: EndpointSpec(frozenset({b"a"}))}
    with serve_sockets("party", Echo, Path(job).parent, doors):
        yield


class Holder:
    """The key holder's end, as `hold-keys` runs it."""

    def __init__(self, folder: Path, site: Site) -> None:
        self._stack, own = contextlib.ExitStack(), folder / "key-holder"
        listener = self._stack.enter_context(site_module._listening(site.key_holder))
        self._stack.enter_context(holding(str(own / "job.json")))
        tunnels = self._stack.enter_context(Tunnels())
        self.seen: list[tuple[str, int]] = []
        doors = {"server": SERVER_ENDPOINT, **{f"client{one}": CLIENT_ENDPOINT for one in range(3)}}
        tunnels.serve_sockets(
            listener,
            site_module._identity(own),
            lambda name: own / doors[name] if name in doors else None,
            lambda name, change: self.seen.append((name, change)),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()


def door_of(tunnels: Tunnels, folder: Path, site: Site, name: str, door: str) -> None:
    identity = site_module._identity(folder / name)
    tunnels.bring_door(folder / name / door, Address.parse(site.key_holder), identity)


def test_each_party_is_led_to_its_own_door_and_large_messages_pass(tmp_path):
    site = prepared(tmp_path)
    with Holder(tmp_path, site) as holder, Tunnels() as tunnels:
        door_of(tunnels, tmp_path, site, "client1", CLIENT_ENDPOINT)
        door_of(tunnels, tmp_path, site, "server", SERVER_ENDPOINT)
        client = connect("party", tmp_path / "client1" / CLIENT_ENDPOINT)
        server = connect("party", tmp_path / "server" / SERVER_ENDPOINT)
        large = os.urandom(5_000_000)
        assert client.ask(b"o", large) == b"o" + large
        assert server.ask(b"a", b"name") == b"aname"
        for line, forbidden in ((client, b"a"), (server, b"o")):
            with pytest.raises(InvalidUpdate):
                line.ask(forbidden)
        assert ("server", 1) in holder.seen and ("client1", 1) in holder.seen
        known = json.loads((tmp_path / "client1" / CLIENT_ENDPOINT).read_text())
        assert stat.S_IMODE((tmp_path / "client1" / CLIENT_ENDPOINT).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(known["address"]).parent.stat().st_mode) == 0o700
        client.close(), server.close()
    assert not (tmp_path / "client1" / CLIENT_ENDPOINT).exists() and not Path(known["address"]).exists()


def test_ways_that_end_while_parties_are_there_say_nothing(tmp_path, caplog):
    site = prepared(tmp_path)
    with Tunnels() as tunnels:
        with Holder(tmp_path, site):
            door_of(tunnels, tmp_path, site, "server", SERVER_ENDPOINT)
            line = connect("party", tmp_path / "server" / SERVER_ENDPOINT)
            assert line.ask(b"a") == b"a"
        line.close()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def spoiled(fault: str, folder: Path, site: Site) -> None:
    """Give client 0 credentials that are none, or not those of this training."""
    own = folder / "client0"
    now = datetime.datetime.now(datetime.UTC)
    match fault:
        case "another authority for both":
            other = Authority("authority of the key holder")
            (own / "key-holder-authority.pem").write_bytes(other.certificate)
            other.of_a_party("client0").write(own / "party.pem", own / "party.key")
        case "a certificate of another authority":
            Authority("authority of the key holder").of_a_party("client0").write(own / "party.pem", own / "party.key")
        case "a certificate that has ended":
            past = Authority("authority of the key holder", now - datetime.timedelta(hours=1))
            past.of_a_party("client0").write(own / "party.pem", own / "party.key")
        case "the name of nobody":
            authority = Authority("authority of the key holder")
            for name in ("client0", "key-holder"):
                (folder / name / "key-holder-authority.pem").write_bytes(authority.certificate)
            holder = folder / "key-holder"
            authority.of_a_service("key holder", [HOST]).write(holder / "party.pem", holder / "party.key")
            authority.of_a_party("client7").write(own / "party.pem", own / "party.key")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("another authority for both", "shows a certificate that is refused: .*use the folder that was prepared tog"),
        ("a certificate of another authority", "does not let this site in; use the folder that was prepared together"),
        ("a certificate that has ended", "ended on .* make the folders of all sites anew"),
        ("the name of nobody", "does not let this site in; use the folder that was prepared together"),
    ],
)
def test_a_site_with_other_credentials_is_not_let_in(fault, message, tmp_path):
    site = prepared(tmp_path)
    spoiled(fault, tmp_path, site)
    with Holder(tmp_path, site) as holder, Tunnels() as tunnels:
        with pytest.raises(DeploymentFailed, match=message) as caught:
            door_of(tunnels, tmp_path, site, "client0", CLIENT_ENDPOINT)
        assert "\n" not in str(caught.value)
        assert holder.seen == [] and not (tmp_path / "client0" / CLIENT_ENDPOINT).exists()


def test_a_machine_without_a_certificate_learns_nothing_from_the_holder(tmp_path):
    site, address = prepared(tmp_path), None
    address = Address.parse(site.key_holder)
    context = ssl.create_default_context(cafile=str(tmp_path / "client0" / "key-holder-authority.pem"))
    with Holder(tmp_path, site) as holder:
        with pytest.raises((DeploymentFailed, OSError)), connected("key holder", address, context) as line:
            line.sendall(b"k")
            assert line.recv(32) == b""
            raise OSError("nothing was said")
        with socket.create_connection((address.host, address.port)) as plain:
            plain.sendall(b"k" * 64)
            plain.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert len(plain.recv(64)) <= 7, "an alert of TLS at most"
        assert holder.seen == []


# Certificates of the server: an address, a name and an authority that are not those of the training.


@contextlib.contextmanager
def tls_server(identity: Identity):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    with socket.create_server((HOST, 0)) as listener, Tunnels() as tunnels:

        async def receive(reader, writer):
            await reader.read()

        tunnels._serve(listener, receive, context)
        yield Address(HOST, listener.getsockname()[1])


@pytest.mark.parametrize(
    ("names", "mine", "hours", "message"),
    [
        ([HOST], True, 48, ""),
        (["other.example.org"], True, 48, "make the folders anew with 127.0.0.1 among the names of the server"),
        ([HOST], False, 48, "use the folder that was prepared together with that of the server"),
        ([HOST], True, -1, "make the folders of all sites anew .*or set the clock"),
    ],
    ids=["the right one", "another name", "another authority", "ended"],
)
def test_a_client_connects_to_the_server_of_its_training_alone(names, mine, hours, message, tmp_path):
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    made = make_credentials(tmp_path / "made", 1, names=names, expires=end)
    other = make_credentials(tmp_path / "other", 1)
    trusted = made.authority if mine else other.authority
    context = ssl.create_default_context(cafile=str(trusted))
    with tls_server(Identity(made.authority, made.certificate, made.key)) as address:
        refused = pytest.raises(DeploymentFailed, match=message) if message else contextlib.nullcontext()
        with refused as caught, connected("server", address, context):
            pass
    assert caught is None or "\n" not in str(caught.value)


def test_a_certificate_that_has_ended_is_named_before_anything_starts(tmp_path):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    made = make_credentials(tmp_path, 1, expires=past)
    with pytest.raises(DeploymentFailed, match=r"server\.pem: this certificate ended on .*`prepare`"):
        check_expiry(made.certificate)


def test_a_site_that_nobody_answers_says_what_to_start_and_what_to_open(tmp_path, monkeypatch):
    monkeypatch.setattr(site_module, "WAIT_SECONDS", 0.5)
    site, said = prepared(tmp_path, "cnn"), []
    port = site.server.rpartition(":")[2]
    with pytest.raises(DeploymentFailed, match=f"does not answer: .*start `serve` there.*let port {port} through"):
        join(tmp_path / "client0", "nothing", notice=said.append)
    assert said == [f"waiting for the server at {site.server} (Connection refused)"]


def test_a_name_that_leads_nowhere_is_named_at_once(tmp_path):
    nowhere = Address("server.invalid", 9092)
    with (
        pytest.raises(DeploymentFailed, match="the name leads to no machine"),
        connected("server", nowhere, ssl.create_default_context()),
    ):
        pass


@pytest.mark.parametrize("role", ["server", "key holder"])
def test_a_port_that_is_taken_is_named_with_the_remedy(role, tmp_path):
    site = prepared(tmp_path)
    address = Address.parse(site.server if role == "server" else site.key_holder)
    refused = pytest.raises(DeploymentFailed, match=f"{address}: cannot listen there: .*another program")
    with socket.create_server((address.host, address.port)), refused as caught:
        if role == "server":
            serve(tmp_path / "server", "nothing")
        else:
            hold_keys(tmp_path / "key-holder", holding)
    assert "\n" not in str(caught.value)


def test_an_address_of_another_machine_is_named_with_the_remedy(tmp_path):
    site = Site("server", "203.0.113.7:9092", "", 1)
    give_credentials(tmp_path, site)
    with pytest.raises(DeploymentFailed, match=r"cannot listen there: .*--listen 0\.0\.0\.0:9092"):
        serve(tmp_path / "server", "nothing")


def test_the_holder_ends_when_the_server_has_closed_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(site_module, "LAST_SECONDS", 0.3)
    site, said = prepared(tmp_path), []
    private_folder(tmp_path / "server")

    def come_and_go(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            with Tunnels() as tunnels:
                door_of(tunnels, tmp_path, site, "server", SERVER_ENDPOINT)
                line = connect("party", tmp_path / "server" / SERVER_ENDPOINT)
                assert line.ask(b"a") == b"a"
                line.close()

    hold_keys(tmp_path / "key-holder", holding, notice=come_and_go)
    assert said[-1].startswith("the server has closed its line")
    assert not list((tmp_path / "key-holder").glob("holder-for-*")), "the doors are gone with the key"


# The command.


@pytest.fixture(scope="module")
def federate():
    return importlib.import_module("ppml.pipeline.federate")


def test_a_folder_that_holds_anything_else_is_not_emptied(federate, tmp_path):
    (tmp_path / "client0").mkdir()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds 'thesis\.tex', which is of no training; give an empty folder"):
        federate.empty(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"client0", "thesis.tex"}
    (tmp_path / "thesis.tex").unlink()
    federate.empty(tmp_path)
    assert list(tmp_path.iterdir()) == [] and stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serve", "nowhere"], "error: serve: .*nowhere/site.json: no such file; give the folder of this site"),
        (["hold-keys", "nowhere", "--listen", "here"], "error: --listen: got 'here'; expected HOST:PORT"),
        (["prepare", "--arm", "fl", "--server", "here"], "error: --server: got 'here'; expected HOST:PORT"),
    ],
    ids=["no folder", "listen", "server"],
)
def test_what_a_site_cannot_do_is_one_line(arguments, line, tmp_path):
    command = [sys.executable, "-m", "ppml.pipeline.federate", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and re.match(line, done.stderr) and done.stderr.count("\n") == 1


def test_a_client_that_gives_no_account_is_named_where_a_training_is_compared(federate, tmp_path, monkeypatch):
    found = {"model": "a", "history": [], "events": [[], None]}
    monkeypatch.setattr(federate.Plan, "check", lambda content, files: None)
    monkeypatch.setattr(federate, "prepare", lambda plan, arm, seed, folder: tmp_path / "job.json")
    monkeypatch.setattr("ppml.stages.federation_job.hold_keys", lambda job: contextlib.nullcontext())
    monkeypatch.setattr(federate, "on_engine", lambda engine, job, folder, workers: found)
    monkeypatch.setattr(federate, "in_workflow", lambda plan, arm, seed, job: {**found, "events": [[], []]})
    with pytest.raises(UserError, match="client 1 gives no account"):
        federate.compare(["--arm", "fl", "--engine", "deployment"])
