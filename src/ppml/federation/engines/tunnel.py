"""Ways between machines: TLS in both directions to the key holder, and a way out of an enclosure to the server.

The holder of the key has its doors in the file system (:mod:`ppml.ipc.socket_server`). A tunnel brings a door to the
site of another party: there is a socket in the file system that leads to one listening port of the holder's machine.
Both ends show a certificate of the holder's authority, and the one of the party says which door is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import json
import os
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppml.federation.engines.credentials import expiry
from ppml.federation.engines.flower_processes import DeploymentFailed
from ppml.io.private_file import write_private

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CHUNK = 1 << 16
HANDSHAKE_SECONDS = 20.0
"""How long a connection may take until both ends have shown who they are."""

ASK, PASS_ON = b"k", b"p"
"""What a party says first: it wants to know what lets it through its door, or to be led there."""

LONGEST = 4096
"""Most bytes of what lets a party through its door."""

SERVER, KEY_HOLDER = "server", "key holder"
"""What the services are called."""


@dataclass(frozen=True)
class Address:
    """A host and a port.

    Examples
    --------
    >>> Address.parse("[::1]:9092"), str(Address("::1", 9092))
    (Address(host='::1', port=9092), '[::1]:9092')
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return what ``host:port`` names.

        Raises
        ------
        ValueError
            It names none.
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"got {text!r}; expected HOST:PORT, for instance server.example.org:9092 or [::1]:9092")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Identity:
    """The files with which a party shows who it is, and knows the other end.

    Parameters
    ----------
    authority, certificate, key : Path
        Certificate of the authority, and the party's own certificate and key.
    """

    authority: Path
    certificate: Path
    key: Path

    def context(self, *, listens: bool) -> ssl.SSLContext:
        """Return what TLS needs at the end that listens, or at the one that connects."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.authority)
        context.load_cert_chain(self.certificate, self.key)
        return context


def check_expiry(certificate: Path) -> None:
    """Raise an error if a certificate has ended.

    Raises
    ------
    DeploymentFailed
        It has; the message says when.
    """
    end = expiry(certificate)
    if end < datetime.datetime.now(datetime.UTC):
        raise DeploymentFailed(
            f"{certificate}: this certificate ended on {end:%Y-%m-%d at %H:%M} UTC; make the folders of all sites anew "
            "with `prepare`, or set the clock of this machine"
        )


@contextlib.contextmanager
def connected(name: str, address: Address, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """Connect to the service ``name`` and check its certificate.

    Raises
    ------
    DeploymentFailed
        The other end shows another certificate than it should, or refuses this one: no later attempt would be better.
    OSError
        Nobody answers there now.
    """
    where = f"the {name} at {address}"
    try:
        plain = socket.create_connection((address.host, address.port), timeout=HANDSHAKE_SECONDS)
        with plain, context.wrap_socket(plain, server_hostname=address.host) as line:
            yield line
    except ssl.SSLCertVerificationError as error:
        raise DeploymentFailed(
            f"{where} shows a certificate that is refused: {_remedy(name, address, error.verify_message or str(error))}"
        ) from None
    except socket.gaierror as error:
        raise DeploymentFailed(
            f"{where}: the name leads to no machine ({error.strerror}); give `prepare` another address of the {name}, "
            "or enter the name in the name service of this machine"
        ) from None
    except ssl.SSLEOFError:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None
    except ssl.SSLError as error:
        raise DeploymentFailed(
            f"{where} and this site do not come to terms: {error.reason or error}; check the address and the port, and "
            f"use the folder that was prepared together with that of the {name}"
        ) from None


def _remedy(name: str, address: Address, said: str) -> str:
    if "expired" in said or "not yet valid" in said:
        return f"{said}; make the folders of all sites anew with `prepare`, or set the clock of this machine"
    if "match" in said:
        return f"{said}; make the folders anew with {address.host} among the names of the {name}"
    return f"{said}; use the folder that was prepared together with that of the {name}"


class Tunnels:
    """Connections that are passed on, by a thread that ends with the block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tunnels", daemon=True)
        self._exit = contextlib.ExitStack()
        self._servers: list[asyncio.AbstractServer] = []

    def __enter__(self) -> Tunnels:
        self._thread.start()
        return self

    def lead_out(self, listener: socket.socket, address: Address) -> None:
        """Pass what connects to ``listener``, a socket that other machines do not see, on to ``address`` as it is."""

        async def out() -> Streams:
            return await asyncio.open_connection(address.host, address.port)

        self._serve(listener, lambda reader, writer: self._pass_on((reader, writer), out))

    def bring_door(self, door: Path, address: Address, identity: Identity) -> None:
        """Make the file of a door whose socket leads to the holder of the key at ``address``.

        Raises
        ------
        DeploymentFailed
            The holder refuses this party.
        OSError
            It does not answer.
        """
        context = identity.context(listens=False)
        # Nobody else may list this folder, and the path of a socket must be short.
        place = Path(tempfile.mkdtemp(prefix="ppml-"))
        self._exit.callback(shutil.rmtree, place, ignore_errors=True)
        told = _told_of_door(address, context)

        async def out() -> Streams:
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            writer.write(PASS_ON)
            return reader, writer

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place / "holder"))
        listener.listen()
        self._serve(listener, lambda reader, writer: self._pass_on((reader, writer), out))
        write_private(door, json.dumps({**told, "address": str(place / "holder")}).encode())
        self._exit.callback(door.unlink, missing_ok=True)

    def serve_key_holder(
        self,
        listener: socket.socket,
        identity: Identity,
        doors: Callable[[str], Path | None],
        seen: Callable[[str, int], None],
    ) -> None:
        """Lead each party that connects to ``listener`` to its door.

        Parameters
        ----------
        listener : socket
            Other machines see it.
        identity : Identity
            Of the holder of the key.
        doors : callable
            Returns the file of a party's door by the name in its certificate; None where it has none.
        seen : callable
            Gets the name of a party and 1 when it is led to its door, and -1 when that connection ends.
        """

        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            name = _subject(writer)
            door = doors(name)
            first = await asyncio.wait_for(reader.read(1), HANDSHAKE_SECONDS)
            if door is None or first not in (ASK, PASS_ON):
                return
            known = json.loads(door.read_text(encoding="utf-8"))
            if first == ASK:
                writer.write(json.dumps(known).encode() + b"\n")
                await writer.drain()
                return
            seen(name, 1)
            try:
                await self._pass_on((reader, writer), lambda: asyncio.open_unix_connection(known["address"]))
            finally:
                seen(name, -1)

        self._serve(listener, receive, identity.context(listens=True))

    def _serve(
        self,
        listener: socket.socket,
        receive: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        context: ssl.SSLContext | None = None,
    ) -> None:
        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Cancelled where the block ends: asyncio of Python 3.11 would print a traceback for it.
            with contextlib.suppress(OSError, ValueError, KeyError, TimeoutError, asyncio.CancelledError):
                await receive(reader, writer)
            with contextlib.suppress(OSError):
                writer.close()

        async def begin() -> None:
            limit = None if context is None else HANDSHAKE_SECONDS
            start = asyncio.start_unix_server if listener.family == socket.AF_UNIX else asyncio.start_server
            self._servers.append(await start(guarded, sock=listener, ssl=context, ssl_handshake_timeout=limit))

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result()

    async def _pass_on(self, near: Streams, out: Callable[[], Awaitable[Streams]]) -> None:
        far = await out()
        try:
            await asyncio.gather(_pump(near[0], far[1]), _pump(far[0], near[1]))
        finally:
            with contextlib.suppress(OSError):
                far[1].close()

    def __exit__(self, *_: object) -> None:
        async def finish() -> None:
            for server in self._servers:
                server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._exit.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write what is read until one side hangs up, and hang up on the other."""
    with contextlib.suppress(OSError):
        while part := await reader.read(CHUNK):
            writer.write(part)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


def _subject(writer: asyncio.StreamWriter) -> str:
    """Return the name in the certificate that the other end has shown."""
    shown = writer.get_extra_info("peercert") or {}
    return next((value for part in shown.get("subject", ()) for name, value in part if name == "commonName"), "")


def _told_of_door(address: Address, context: ssl.SSLContext) -> dict[str, Any]:
    """Return what lets this party through its door, which the holder tells it alone."""
    told = b""
    with connected(KEY_HOLDER, address, context) as line, contextlib.suppress(ssl.SSLError, ConnectionError):
        # The holder judges this site's certificate after the handshake, and hangs up where it is none.
        line.sendall(ASK)
        with line.makefile("rb") as file:
            told = file.readline(LONGEST)
    if not told:
        raise DeploymentFailed(
            f"the {KEY_HOLDER} at {address} does not let this site in; use the folder that was prepared together with "
            f"that of the {KEY_HOLDER}"
        )
    found: dict[str, Any] = json.loads(told)
    return found
