"""The sites of a deployment on several machines: the server, the clients and the key holder.

The operator makes a folder for each site, with the files that the site may read and its credentials, and copies it to
that machine. A site has at most one port for other machines; Flower's processes run in namespaces, and two sockets
connect them to the network.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from ppml.federation.engines.credentials import (
    AUTHORITY,
    CERTIFICATE,
    HOLDER_AUTHORITY,
    PARTY,
    Authority,
    client_key,
    make_credentials,
)
from ppml.federation.engines.deployment import NamespacedProcesses, start_server
from ppml.federation.engines.flower_processes import DeploymentFailed, private_folder
from ppml.federation.engines.namespace_init import NodeJob, ServerJob
from ppml.federation.engines.namespaces import namespace_command
from ppml.federation.engines.tunnel import (
    KEY_HOLDER,
    SERVER,
    Address,
    Tunnels,
    check_expiry,
    connect_tls,
    mutual_tls,
)
from ppml.io.atomic import read_json, write_json
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT

SITE, JOB, RESULT, MODEL, NODE_KEY = "site.json", "job.json", "result.json", "model.safetensors", "node.key"

WAIT_SECONDS = 300.0
"""Seconds that a site waits for the start of another one."""

AWAY_SECONDS = 180.0
"""Seconds that the server may be unreachable during a training."""

CHECK_SECONDS = 3.0
"""Seconds between two checks of the server."""

LAST_SECONDS = 5.0
"""Seconds that the key holder waits for the server to reconnect before it ends."""

Notice = Callable[[str], None]


def client_folder(client: int) -> str:
    """Return the name of the folder of a client."""
    return f"client{client}"


SERVER_FOLDER, HOLDER_FOLDER = "server", "key-holder"


@dataclass(frozen=True)
class SiteConfig:
    """The role of a site, and the addresses of the others.

    Parameters
    ----------
    role : {"server", "client", "key holder"}
        Role of the site.
    server : str
        Address of the server, ``host:port``.
    key_holder : str
        Address of the key holder; empty without one.
    clients : int
        Number of clients.
    client : int
        Number of this client; -1 for other roles.
    answer_seconds, seconds : float
        Time limits of a client's reply and of the training.
    """

    role: str
    server: str
    key_holder: str
    clients: int
    client: int = -1
    answer_seconds: float = 600.0
    seconds: float = 7 * 86400.0

    @classmethod
    def read(cls, folder: Path, role: str) -> SiteConfig:
        """Return the configuration in the folder of a site of the given role.

        Raises
        ------
        DeploymentFailed
            The folder is of another role, or not a prepared one.
        """
        path = folder / SITE
        if not path.is_file():
            raise DeploymentFailed(f"{path}: no such file; give the folder of this site from `prepare`")
        found = cls(**read_json(path))
        if found.role != role:
            raise DeploymentFailed(f"{path}: this folder belongs to the {found.role}; give the folder of the {role}")
        private_folder(folder)
        return found


def write_credentials(
    folder: Path, site: SiteConfig, *, server_names: Sequence[str] = (), key_holder_names: Sequence[str] = ()
) -> None:
    """Write the credentials and the configuration of each site into its folder within ``folder``.

    Parameters
    ----------
    folder : Path
        Parent of the folders.
    site : SiteConfig
        Values for all sites; the role is ignored.
    server_names, key_holder_names : sequence of str
        Further host names of the two.
    """
    # The last two are for nodes in namespaces, which connect to a local socket.
    names = [Address.parse(site.server).host, *server_names, "localhost", "127.0.0.1"]
    server = make_credentials(private_folder(folder / SERVER_FOLDER), site.clients, names=names)
    _write_site(server, site, SERVER)
    for client in range(site.clients):
        own = private_folder(folder / client_folder(client))
        (own / AUTHORITY).write_bytes((server / AUTHORITY).read_bytes())
        client_key(server, client).rename(own / NODE_KEY)
        _write_site(own, site, "client", client)
    if site.key_holder:
        holder, authority = private_folder(folder / HOLDER_FOLDER), Authority("authority of the key holder")
        host = Address.parse(site.key_holder).host
        authority.issue_server_certificate(holder / PARTY, KEY_HOLDER, [host, *key_holder_names])
        (holder / HOLDER_AUTHORITY).write_bytes(authority.certificate)
        _write_site(holder, site, KEY_HOLDER)
        for name in (SERVER_FOLDER, *map(client_folder, range(site.clients))):
            authority.issue_client_certificate(folder / name / PARTY, name)
            (folder / name / HOLDER_AUTHORITY).write_bytes(authority.certificate)


def _write_site(folder: Path, site: SiteConfig, role: str, client: int = -1) -> None:
    write_json(folder / SITE, {**asdict(site), "role": role, "client": client})


def run_server(folder: Path, module: str, *, listen: str = "", notice: Notice = print) -> Path:
    """Run the server until the end of the training, and return the file of the result.

    Parameters
    ----------
    folder : Path
        Folder of this site.
    module : str
        Module of the apps.
    listen : str
        Address to listen on, ``host:port``; empty: the address of the server for the other sites.
    notice : callable
        Called with a line for each step.

    Raises
    ------
    DeploymentFailed
        The training has not completed; the message gives the reason.
    UserError
        The system does not allow namespaces.
    """
    folder = folder.resolve()
    site = SiteConfig.read(folder, SERVER)
    check_expiry(folder / CERTIFICATE)
    namespace_command()
    result, printed = folder / RESULT, 0
    with _listen(listen or site.server) as listener, Tunnels() as tunnels:
        if site.key_holder:
            _forward_key_holder(tunnels, folder, SERVER_ENDPOINT, Address.parse(site.key_holder), notice)
        job = ServerJob(
            job=str(folder / JOB),
            result=str(result),
            credentials=str(folder),
            clients=site.clients,
            answer_seconds=site.answer_seconds,
            seconds=site.seconds,
            public_socket=listener.fileno(),
        )
        with start_server(folder / "flower", module, job) as processes:
            notice(f"the server listens on port {listener.getsockname()[1]}; log: {folder / 'flower'}")
            for _ in processes.checks(CHECK_SECONDS):
                if result.is_file():
                    rounds = read_json(result)["history"]
                    for row in rounds[printed:]:
                        notice(f"round {row['step']}: {row['clients']} clients, accuracy {row['accuracy']:.4f}")
                    printed = len(rounds)
    return result


def run_client(folder: Path, module: str, *, notice: Notice = print) -> Path:
    """Run a client until the end of the training, and return the file of the model; see :func:`run_server`.

    Raises
    ------
    DeploymentFailed
        The server does not answer, shows a wrong certificate, or ended before the training.
    UserError
        The system does not allow namespaces.
    """
    folder = folder.resolve()
    site = SiteConfig.read(folder, "client")
    address, model = Address.parse(site.server), folder / MODEL
    namespace_command()
    with Tunnels() as tunnels:
        _wait_for(SERVER, address, lambda: _check_server(folder, address), notice)
        if site.key_holder:
            _forward_key_holder(tunnels, folder, CLIENT_ENDPOINT, Address.parse(site.key_holder), notice)
        model.unlink(missing_ok=True)
        ours, theirs = socket.socketpair()
        node = NodeJob(
            job=str(folder / JOB),
            authority=str(folder / AUTHORITY),
            key=str(folder / NODE_KEY),
            client=site.client,
            clients=site.clients,
            result=str(model),
        )
        job = {"module": module, "node": asdict(node), "channel": theirs.fileno()}
        with ours, theirs, NamespacedProcesses(folder / "flower", job, [theirs.fileno()]) as processes:
            theirs.close()
            descriptors = socket.recv_fds(ours, 1, 1)[1]
            if descriptors:
                tunnels.forward_to_server(socket.socket(fileno=descriptors[0]), address)
                notice(f"client {site.client} takes part; log: {folder / 'flower'}")
            _wait_for_end(processes, address, model)
    return model


def _check_server(folder: Path, address: Address) -> None:
    context = ssl.create_default_context(cafile=str(folder / AUTHORITY))
    with connect_tls(SERVER, address, context):
        pass


def _wait_for_end(processes: NamespacedProcesses, address: Address, model: Path) -> None:
    """Wait until a client has the model and the server has ended; raise an error if the server is away too long."""
    answered = time.monotonic()
    for _ in processes.checks(CHECK_SECONDS):
        try:
            socket.create_connection((address.host, address.port), timeout=CHECK_SECONDS).close()
            answered = time.monotonic()
        except OSError as error:
            if model.is_file():
                return
            if time.monotonic() - answered > AWAY_SECONDS:
                raise DeploymentFailed(
                    f"the server at {address} is unreachable for {AWAY_SECONDS:g} s ({error.strerror or error}); "
                    "see the output of `serve` there; a new `serve` starts the training again"
                ) from None


def run_key_holder(
    folder: Path,
    start_service: Callable[[str], AbstractContextManager[None]],
    *,
    listen: str = "",
    notice: Notice = print,
) -> None:
    """Hold the secret key until the server ends the training.

    Parameters
    ----------
    folder : Path
        Folder of this site.
    start_service : callable
        Runs the key holder of a job while a block runs.
    listen, notice
        See :func:`run_server`.

    Raises
    ------
    DeploymentFailed
        The port is not free, or the certificate has expired.
    """
    folder = folder.resolve()
    site = SiteConfig.read(folder, KEY_HOLDER)
    context = mutual_tls(folder, listens=True)
    endpoints = {client_folder(client): folder / CLIENT_ENDPOINT for client in range(site.clients)}
    endpoints[SERVER_FOLDER] = folder / SERVER_ENDPOINT
    connections, absent_since = 0, float("inf")

    def count(name: str, change: int) -> None:
        nonlocal connections, absent_since
        if name == SERVER_FOLDER:
            connections += change
            absent_since = float("inf") if connections else time.monotonic()

    with _listen(listen or site.key_holder) as listener, start_service(str(folder / JOB)), Tunnels() as tunnels:
        tunnels.serve_key_holder(listener, context, endpoints, count)
        notice(f"the key holder listens on port {listener.getsockname()[1]}")
        while time.monotonic() - absent_since <= LAST_SECONDS:
            if not all(endpoint.is_file() for endpoint in set(endpoints.values())):
                raise DeploymentFailed(
                    "the process that holds the key has ended, and the key is lost; run `hold-keys`, `serve` and "
                    "`join` again to restart the training"
                )
            time.sleep(0.2)
    notice("the server has disconnected: the training has ended, and the key is deleted")


def _forward_key_holder(tunnels: Tunnels, folder: Path, endpoint: str, address: Address, notice: Notice) -> None:
    context = mutual_tls(folder, listens=False)
    _wait_for(KEY_HOLDER, address, lambda: tunnels.forward_key_holder(folder / endpoint, address, context), notice)


def _wait_for(name: str, address: Address, attempt: Callable[[], None], notice: Notice) -> None:
    """Repeat an attempt until another site answers."""
    deadline, reported = time.monotonic() + WAIT_SECONDS, False
    command = {SERVER: "serve", KEY_HOLDER: "hold-keys"}[name]
    while True:
        try:
            return attempt()
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise DeploymentFailed(
                f"the {name} at {address} does not answer: {reason}; start `{command}` there, check the address, and "
                f"open port {address.port} in the firewalls"
            )
        if not reported:
            notice(f"waiting for the {name} at {address} ({reason})")
            reported = True
        time.sleep(1.0)


def _listen(text: str) -> socket.socket:
    """Listen on an address of this machine for other machines."""
    address = Address.parse(text)
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        remedy = "give an address of this machine with --listen HOST:PORT, for instance --listen 0.0.0.0:{port}"
        if error.errno == errno.EADDRINUSE:
            remedy = "another program uses the port: stop it, or make new folders with another port"
        reason = error.strerror or str(error)
        raise DeploymentFailed(f"{address}: cannot listen: {reason}; {remedy.format(port=address.port)}") from None
