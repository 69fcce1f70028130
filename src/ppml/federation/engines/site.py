"""The sites of a deployment on several machines: the server, the clients and the key holder.

The operator makes a folder for each site, with the files that the site may read and its credentials, and copies it to
that machine. A site has at most one port for other machines; Flower's processes run in namespaces, and two sockets
connect them to the network.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from ppml.federation.engines.credentials import Authority, make_credentials
from ppml.federation.engines.deployment import NamespacedProcesses
from ppml.federation.engines.environment import FAULT
from ppml.federation.engines.flower_processes import DeploymentFailed, private_folder
from ppml.federation.engines.namespace_init import NodeJob, ServerJob
from ppml.federation.engines.namespaces import namespace_command
from ppml.federation.engines.tunnel import (
    KEY_HOLDER,
    SERVER,
    Address,
    Identity,
    Tunnels,
    check_expiry,
    connect_tls,
)
from ppml.io.atomic import read_json, write_json
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT

SITE, JOB, RESULT, MODEL = "site.json", "job.json", "result.json", "model.safetensors"
AUTHORITY, CERTIFICATE, KEY, NODE_KEY = "server-authority.pem", "server.pem", "server.key", "node.key"
HOLDER_AUTHORITY, PARTY, PARTY_KEY = "key-holder-authority.pem", "party.pem", "party.key"

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
    """Write the credentials and the configuration of each site into its folder.

    Parameters
    ----------
    folder : Path
        Has the folders.
    site : Site
        Values for all sites; the role is ignored.
    server_names, key_holder_names : sequence of str
        Further host names of the two.
    """
    addresses = {SERVER: Address.parse(site.server)}
    # The last two are for nodes in namespaces, which connect to a local socket.
    names = [addresses[SERVER].host, *server_names, "localhost", "127.0.0.1"]
    made = make_credentials(private_folder(folder / SERVER_FOLDER), site.clients, names=names)
    made.authority.rename(folder / SERVER_FOLDER / AUTHORITY)
    for client, key in enumerate(made.clients):
        own = private_folder(folder / client_folder(client))
        (own / AUTHORITY).write_bytes((folder / SERVER_FOLDER / AUTHORITY).read_bytes())
        key.rename(own / NODE_KEY)
        _write_site(own, site, "client", client)
    _write_site(folder / SERVER_FOLDER, site, SERVER)
    if site.key_holder:
        holder, authority = private_folder(folder / HOLDER_FOLDER), Authority("authority of the key holder")
        host = Address.parse(site.key_holder).host
        authority.issue_server_certificate(KEY_HOLDER, [host, *key_holder_names]).write(
            holder / PARTY, holder / PARTY_KEY
        )
        (holder / HOLDER_AUTHORITY).write_bytes(authority.certificate)
        _write_site(holder, site, KEY_HOLDER)
        for name in (SERVER_FOLDER, *map(client_folder, range(site.clients))):
            authority.issue_client_certificate(name).write(folder / name / PARTY, folder / name / PARTY_KEY)
            (folder / name / HOLDER_AUTHORITY).write_bytes(authority.certificate)


def _write_site(folder: Path, site: SiteConfig, role: str, client: int = -1) -> None:
    write_json(folder / SITE, {**asdict(site), "role": role, "client": client})


def _identity(folder: Path) -> Identity:
    identity = Identity(folder / HOLDER_AUTHORITY, folder / PARTY, folder / PARTY_KEY)
    check_expiry(identity.certificate)
    return identity


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
    result = folder / RESULT
    for path in (result, Path(f"{result}{FAULT}")):
        path.unlink(missing_ok=True)
    job = ServerJob(
        job=str(folder / JOB),
        authority=str(folder / AUTHORITY),
        certificate=str(folder / CERTIFICATE),
        key=str(folder / KEY),
        result=str(result),
        public_keys=[str(folder / f"{client_folder(client)}.pub") for client in range(site.clients)],
        answer_seconds=site.answer_seconds,
        seconds=site.seconds,
    )
    with _listen(listen or site.server) as listener, Tunnels() as tunnels:
        if site.key_holder:
            _forward_key_holder(tunnels, folder, SERVER_ENDPOINT, Address.parse(site.key_holder), notice)
        public = {**asdict(job), "public_socket": listener.fileno()}
        with NamespacedProcesses(
            folder / "flower", {"module": module, "server": public}, [listener.fileno()]
        ) as processes:
            notice(f"the server listens on port {listener.getsockname()[1]}; log: {folder / 'flower'}")
            processes.wait(_RoundLog(result, notice).update, CHECK_SECONDS)
    return result


class _RoundLog:
    """Writes a line for each completed round."""

    def __init__(self, result: Path, notice: Notice) -> None:
        self._result, self._notice, self._lines = result, notice, 0

    def update(self) -> bool:
        """Write lines for the rounds since the last call; return True."""
        if self._result.is_file():
            rounds = read_json(self._result)["history"]
            for row in rounds[self._lines :]:
                self._notice(f"round {row['step']}: {row['clients']} clients, accuracy {row['accuracy']:.4f}")
            self._lines = len(rounds)
        return True


def run_client(folder: Path, module: str, *, notice: Notice = print) -> Path:
    """Run a client until the end of the training, and return the file of the model.

    Parameters
    ----------
    folder, module, notice
        See :func:`run_server`.

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
            processes.wait(_ServerWatch(address, model).is_needed, CHECK_SECONDS)
    return model


class _ServerWatch:
    """Checks whether a client is still needed: until it has the model and the server has ended."""

    def __init__(self, address: Address, model: Path) -> None:
        self._address, self._model, self._answered = address, model, time.monotonic()

    def is_needed(self) -> bool:
        """Return whether the client must continue.

        Raises
        ------
        DeploymentFailed
            The server is unreachable for too long.
        """
        try:
            socket.create_connection((self._address.host, self._address.port), timeout=CHECK_SECONDS).close()
            self._answered = time.monotonic()
        except OSError as error:
            if self._model.is_file():
                return False
            if time.monotonic() - self._answered > AWAY_SECONDS:
                raise DeploymentFailed(
                    f"the server at {self._address} is unreachable for {AWAY_SECONDS:g} s ({error.strerror or error}); "
                    "see the output of `serve` there; a new `serve` starts the training again"
                ) from None
        return True


def _check_server(folder: Path, address: Address) -> None:
    context = ssl.create_default_context(cafile=str(folder / AUTHORITY))
    with connect_tls(SERVER, address, context):
        pass


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
    identity = _identity(folder)
    endpoints = {
        SERVER_FOLDER: SERVER_ENDPOINT,
        **{client_folder(client): CLIENT_ENDPOINT for client in range(site.clients)},
    }
    server = _ServerPresence()

    def endpoint_of(name: str) -> Path | None:
        return folder / endpoints[name] if name in endpoints else None

    with _listen(listen or site.key_holder) as listener, start_service(str(folder / JOB)), Tunnels() as tunnels:
        tunnels.serve_key_holder(listener, identity, endpoint_of, server.update)
        notice(f"the key holder listens on port {listener.getsockname()[1]}")
        while not server.absent_for(LAST_SECONDS):
            if not all((folder / name).is_file() for name in set(endpoints.values())):
                raise DeploymentFailed(
                    "the process that holds the key has ended, and the key is lost; run `hold-keys`, `serve` and "
                    "`join` again to restart the training"
                )
            time.sleep(0.2)
    notice("the server has disconnected: the training has ended, and the key is deleted")


class _ServerPresence:
    """The connections of the server, and the time of the last disconnection."""

    def __init__(self) -> None:
        self._open, self._closed = 0, float("inf")

    def update(self, name: str, change: int) -> None:
        """Count a connection that opens (1) or closes (-1)."""
        if name == SERVER_FOLDER:
            self._open += change
            self._closed = float("inf") if self._open else time.monotonic()

    def absent_for(self, seconds: float) -> bool:
        """Return whether the server disconnected more than ``seconds`` ago."""
        return time.monotonic() - self._closed > seconds


def _forward_key_holder(tunnels: Tunnels, folder: Path, endpoint: str, address: Address, notice: Notice) -> None:
    identity = _identity(folder)
    _wait_for(KEY_HOLDER, address, lambda: tunnels.forward_key_holder(folder / endpoint, address, identity), notice)


def _wait_for(name: str, address: Address, attempt: Callable[[], None], notice: Notice) -> None:
    """Repeat an attempt until another site answers.

    Raises
    ------
    DeploymentFailed
        The site does not answer, or shows a wrong certificate.
    """
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


@contextlib.contextmanager
def _listen(text: str) -> Iterator[socket.socket]:
    """Listen on an address for other machines.

    Raises
    ------
    DeploymentFailed
        The address is not free, or not of this machine.
    """
    address = Address.parse(text)
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        remedy = "give an address of this machine with --listen HOST:PORT, for instance --listen 0.0.0.0:{port}"
        if error.errno == errno.EADDRINUSE:
            remedy = "another program uses the port: stop it, or make new folders with another port"
        reason = error.strerror or str(error)
        raise DeploymentFailed(f"{address}: cannot listen: {reason}; {remedy.format(port=address.port)}") from None
    with listener:
        yield listener
