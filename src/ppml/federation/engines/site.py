"""One command for each site of a deployment on several machines: the server, a client, the holder of the key.

The operator makes a folder for each site, with what that site may see and its own credentials, and carries it there.
A site has at most one port that other machines reach; Flower's processes run in an enclosure, which two sockets lead
into and out of.
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
from ppml.federation.engines.deployment import Enclosed
from ppml.federation.engines.environment import FAULT
from ppml.federation.engines.flower_processes import DeploymentFailed, private_folder
from ppml.federation.engines.namespace_init import NodeJob, ServerJob
from ppml.federation.engines.namespaces import enclosing
from ppml.federation.engines.tunnel import (
    KEY_HOLDER,
    SERVER,
    Address,
    Identity,
    Tunnels,
    check_expiry,
    connected,
)
from ppml.io.atomic import read_json, write_json
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT

SITE, JOB, RESULT, MODEL = "site.json", "job.json", "result.json", "model.safetensors"
AUTHORITY, CERTIFICATE, KEY, NODE_KEY = "server-authority.pem", "server.pem", "server.key", "node.key"
HOLDER_AUTHORITY, PARTY, PARTY_KEY = "key-holder-authority.pem", "party.pem", "party.key"

WAIT_SECONDS = 300.0
"""How long a site waits for another one to start."""

AWAY_SECONDS = 180.0
"""How long the server may be away in the middle of a training."""

LOOK_SECONDS = 3.0
"""How often a site looks whether the server is there."""

LAST_SECONDS = 5.0
"""How long the holder of the key waits for the server to connect again before it ends."""

Notice = Callable[[str], None]


def folder_of(client: int) -> str:
    """Return the name of the folder of a client's site."""
    return f"client{client}"


SERVER_FOLDER, HOLDER_FOLDER = "server", "key-holder"


@dataclass(frozen=True)
class Site:
    """What a site knows of the others.

    Parameters
    ----------
    role : {"server", "client", "key holder"}
        What it is.
    server : str
        Address of the server, ``host:port``.
    key_holder : str
        Address of the holder of the key; empty where there is none.
    clients : int
        How many clients there are.
    client : int
        Which one it is; -1 where it is none.
    answer_seconds, seconds : float
        How long a client may take to answer, and the whole training.
    """

    role: str
    server: str
    key_holder: str
    clients: int
    client: int = -1
    answer_seconds: float = 600.0
    seconds: float = 7 * 86400.0

    @classmethod
    def read(cls, folder: Path, role: str) -> Site:
        """Return what the folder of a site says, where it is of that role.

        Raises
        ------
        DeploymentFailed
            The folder is of another role, or none that was prepared.
        """
        path = folder / SITE
        if not path.is_file():
            raise DeploymentFailed(f"{path}: no such file; give the folder of this site that `prepare` has made")
        found = cls(**read_json(path))
        if found.role != role:
            raise DeploymentFailed(f"{path}: this folder is that of the {found.role}; give the one of the {role}")
        private_folder(folder)
        return found


def give_credentials(
    folder: Path, site: Site, *, server_names: Sequence[str] = (), key_holder_names: Sequence[str] = ()
) -> None:
    """Write credentials, and what each site knows of the others, into the folders of all sites.

    Parameters
    ----------
    folder : Path
        Has the folders.
    site : Site
        What all know; the role counts for nothing.
    server_names, key_holder_names : sequence of str
        Further names under which the two are reached.
    """
    addresses = {SERVER: Address.parse(site.server)}
    # Within its enclosure a node reaches the server under this name.
    names = [addresses[SERVER].host, *server_names, "localhost", "127.0.0.1"]
    made = make_credentials(private_folder(folder / SERVER_FOLDER), site.clients, names=names)
    made.authority.rename(folder / SERVER_FOLDER / AUTHORITY)
    for client, key in enumerate(made.clients):
        own = private_folder(folder / folder_of(client))
        (own / AUTHORITY).write_bytes((folder / SERVER_FOLDER / AUTHORITY).read_bytes())
        key.rename(own / NODE_KEY)
        _write_site(own, site, "client", client)
    _write_site(folder / SERVER_FOLDER, site, SERVER)
    if site.key_holder:
        holder, authority = private_folder(folder / HOLDER_FOLDER), Authority("authority of the key holder")
        host = Address.parse(site.key_holder).host
        authority.of_a_service(KEY_HOLDER, [host, *key_holder_names]).write(holder / PARTY, holder / PARTY_KEY)
        (holder / HOLDER_AUTHORITY).write_bytes(authority.certificate)
        _write_site(holder, site, KEY_HOLDER)
        for name in (SERVER_FOLDER, *map(folder_of, range(site.clients))):
            authority.of_a_party(name).write(folder / name / PARTY, folder / name / PARTY_KEY)
            (folder / name / HOLDER_AUTHORITY).write_bytes(authority.certificate)


def _write_site(folder: Path, site: Site, role: str, client: int = -1) -> None:
    write_json(folder / SITE, {**asdict(site), "role": role, "client": client})


def _identity(folder: Path) -> Identity:
    identity = Identity(folder / HOLDER_AUTHORITY, folder / PARTY, folder / PARTY_KEY)
    check_expiry(identity.certificate)
    return identity


def serve(folder: Path, module: str, *, listen: str = "", notice: Notice = print) -> Path:
    """Be the server until the training has ended, and return the file of the result.

    Parameters
    ----------
    folder : Path
        Of this site.
    module : str
        Has the apps.
    listen : str
        Where to listen, ``host:port``; empty: at the address that the other sites know.
    notice : callable
        Gets a line for each step.

    Raises
    ------
    DeploymentFailed
        The training has not completed, or cannot begin; the message says why.
    UserError
        This system cannot enclose the processes.
    """
    folder = folder.resolve()
    site = Site.read(folder, SERVER)
    check_expiry(folder / CERTIFICATE)
    enclosing()
    result = folder / RESULT
    for path in (result, Path(f"{result}{FAULT}")):
        path.unlink(missing_ok=True)
    job = ServerJob(
        job=str(folder / JOB),
        authority=str(folder / AUTHORITY),
        certificate=str(folder / CERTIFICATE),
        key=str(folder / KEY),
        result=str(result),
        public_keys=[str(folder / f"{folder_of(client)}.pub") for client in range(site.clients)],
        answer_seconds=site.answer_seconds,
        seconds=site.seconds,
    )
    with _listening(listen or site.server) as listener, Tunnels() as tunnels:
        if site.key_holder:
            _bring_door(tunnels, folder, SERVER_ENDPOINT, Address.parse(site.key_holder), notice)
        public = {**asdict(job), "public_socket": listener.fileno()}
        with Enclosed(folder / "flower", {"module": module, "server": public}, [listener.fileno()]) as enclosed:
            notice(f"the server listens on port {listener.getsockname()[1]}; log: {folder / 'flower'}")
            enclosed.wait(_Rounds(result, notice).look, LOOK_SECONDS)
    return result


class _Rounds:
    """Tells of each round that has ended."""

    def __init__(self, result: Path, notice: Notice) -> None:
        self._result, self._notice, self._told = result, notice, 0

    def look(self) -> bool:
        """Tell of rounds that have ended since the last call; return True."""
        if self._result.is_file():
            rounds = read_json(self._result)["history"]
            for row in rounds[self._told :]:
                self._notice(f"round {row['step']}: {row['clients']} clients, accuracy {row['accuracy']:.4f}")
            self._told = len(rounds)
        return True


def join(folder: Path, module: str, *, notice: Notice = print) -> Path:
    """Be a client until the training has ended, and return the file of the model.

    Parameters
    ----------
    folder, module, notice
        See :func:`serve`.

    Raises
    ------
    DeploymentFailed
        The server does not answer, or is another one, or ended before the training did.
    UserError
        This system cannot enclose the processes.
    """
    folder = folder.resolve()
    site = Site.read(folder, "client")
    address, model = Address.parse(site.server), folder / MODEL
    enclosing()
    with Tunnels() as tunnels:
        _wait_for(SERVER, address, lambda: _shake_hands(folder, address), notice)
        if site.key_holder:
            _bring_door(tunnels, folder, CLIENT_ENDPOINT, Address.parse(site.key_holder), notice)
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
        order = {"module": module, "node": asdict(node), "hand_over": theirs.fileno()}
        with ours, theirs, Enclosed(folder / "flower", order, [theirs.fileno()]) as enclosed:
            theirs.close()
            descriptors = socket.recv_fds(ours, 1, 1)[1]
            if descriptors:
                tunnels.lead_out(socket.socket(fileno=descriptors[0]), address)
                notice(f"client {site.client} takes part; log: {folder / 'flower'}")
            enclosed.wait(_Watch(address, model).look, LOOK_SECONDS)
    return model


class _Watch:
    """Tells whether to go on: until the model is there and the server has ended."""

    def __init__(self, address: Address, model: Path) -> None:
        self._address, self._model, self._answered = address, model, time.monotonic()

    def look(self) -> bool:
        """Return whether to go on.

        Raises
        ------
        DeploymentFailed
            The server has been away for too long.
        """
        try:
            socket.create_connection((self._address.host, self._address.port), timeout=LOOK_SECONDS).close()
            self._answered = time.monotonic()
        except OSError as error:
            if self._model.is_file():
                return False
            if time.monotonic() - self._answered > AWAY_SECONDS:
                raise DeploymentFailed(
                    f"the server at {self._address} has been away for {AWAY_SECONDS:g} s ({error.strerror or error}); "
                    "see what `serve` says there; after a new `serve` the training begins anew"
                ) from None
        return True


def _shake_hands(folder: Path, address: Address) -> None:
    context = ssl.create_default_context(cafile=str(folder / AUTHORITY))
    with connected(SERVER, address, context):
        pass


def hold_keys(
    folder: Path, holding: Callable[[str], AbstractContextManager[None]], *, listen: str = "", notice: Notice = print
) -> None:
    """Hold the secret key until the server has ended the training.

    Parameters
    ----------
    folder : Path
        Of this site.
    holding : callable
        Opens the doors of the holder of the key for the job of that name, while a block runs.
    listen, notice
        See :func:`serve`.

    Raises
    ------
    DeploymentFailed
        The port is not free, or the certificate has ended.
    """
    folder = folder.resolve()
    site = Site.read(folder, KEY_HOLDER)
    identity = _identity(folder)
    doors = {SERVER_FOLDER: SERVER_ENDPOINT, **{folder_of(client): CLIENT_ENDPOINT for client in range(site.clients)}}
    lines = _Lines()

    def door(name: str) -> Path | None:
        return folder / doors[name] if name in doors else None

    with _listening(listen or site.key_holder) as listener, holding(str(folder / JOB)), Tunnels() as tunnels:
        tunnels.serve_key_holder(listener, identity, door, lines.seen)
        notice(f"the key holder listens on port {listener.getsockname()[1]}")
        while not lines.closed_for(LAST_SECONDS):
            if not all((folder / name).is_file() for name in set(doors.values())):
                raise DeploymentFailed(
                    "the process that holds the key has ended, and with it the key; start `hold-keys`, `serve` and "
                    "`join` again: the training begins anew"
                )
            time.sleep(0.2)
    notice("the server has closed its line: the training has ended, and the key with it")


class _Lines:
    """Whether the server has been there, and since when it is gone."""

    def __init__(self) -> None:
        self._open, self._closed = 0, float("inf")

    def seen(self, name: str, change: int) -> None:
        """Take note of a line that is opened (1) or closed (-1)."""
        if name == SERVER_FOLDER:
            self._open += change
            self._closed = float("inf") if self._open else time.monotonic()

    def closed_for(self, seconds: float) -> bool:
        """Return whether the server has been gone for so long."""
        return time.monotonic() - self._closed > seconds


def _bring_door(tunnels: Tunnels, folder: Path, door: str, address: Address, notice: Notice) -> None:
    identity = _identity(folder)
    _wait_for(KEY_HOLDER, address, lambda: tunnels.bring_door(folder / door, address, identity), notice)


def _wait_for(name: str, address: Address, attempt: Callable[[], None], notice: Notice) -> None:
    """Try until another site answers.

    Raises
    ------
    DeploymentFailed
        It does not, or it is another one.
    """
    deadline, told = time.monotonic() + WAIT_SECONDS, False
    command = {SERVER: "serve", KEY_HOLDER: "hold-keys"}[name]
    while True:
        try:
            return attempt()
        except OSError as error:
            why = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise DeploymentFailed(
                f"the {name} at {address} does not answer: {why}; start `{command}` there, check the address, and let "
                f"port {address.port} through the firewalls in between"
            )
        if not told:
            notice(f"waiting for the {name} at {address} ({why})")
            told = True
        time.sleep(1.0)


@contextlib.contextmanager
def _listening(text: str) -> Iterator[socket.socket]:
    """Listen on an address for other machines.

    Raises
    ------
    DeploymentFailed
        It is not free, or not of this machine.
    """
    address = Address.parse(text)
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        remedy = "give the one to listen on with --listen HOST:PORT, for instance --listen 0.0.0.0:{port}"
        if error.errno == errno.EADDRINUSE:
            remedy = "another program listens there: end it, or make the folders anew with another port"
        said = error.strerror or str(error)
        raise DeploymentFailed(f"{address}: cannot listen there: {said}; {remedy.format(port=address.port)}") from None
    with listener:
        yield listener
