"""Connections between machines: mutual TLS to the key holder, and from the namespaces of a node to the server.

The key holder serves Unix sockets (:mod:`ppml.ipc.socket_server`). A tunnel forwards such an endpoint to another site:
a Unix socket there leads to one listening port of the key holder's machine. Both ends show a certificate of the key
holder's authority, and the name in the site's certificate selects the endpoint.
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
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509

from ppml.federation.engines.credentials import HOLDER_AUTHORITY, PARTY, PARTY_KEY
from ppml.federation.engines.flower_processes import DeploymentFailed
from ppml.io.private_file import write_private

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CHUNK = 1 << 16
HANDSHAKE_SECONDS = 20.0
"""Seconds until both ends of a connection are authenticated."""

FETCH, FORWARD = b"k", b"p"
"""First byte of a connection: fetch the file of the endpoint, or forward to the endpoint."""

MAX_ENDPOINT_BYTES = 4096
"""Most bytes of the file of an endpoint."""

SERVER, KEY_HOLDER = "server", "key holder"
"""Names of the services."""


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
        """Return the address ``host:port``.

        Raises
        ------
        ValueError
            The text is not an address.
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"got {text!r}; expected HOST:PORT, for instance server.example.org:9092 or [::1]:9092")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def mutual_tls(folder: Path, *, listens: bool) -> ssl.SSLContext:
    """Return the context of the end that listens, or of the end that connects, with the credentials of a site.

    Raises
    ------
    DeploymentFailed
        The certificate of the site has expired.
    """
    check_expiry(folder / PARTY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / HOLDER_AUTHORITY)
    context.load_cert_chain(folder / PARTY, folder / PARTY_KEY)
    return context


def check_expiry(certificate: Path) -> None:
    """Raise an error with the time of the end if a certificate has expired."""
    end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    if end < datetime.datetime.now(datetime.UTC):
        raise DeploymentFailed(
            f"{certificate}: this certificate expired on {end:%Y-%m-%d at %H:%M} UTC; make new folders of all sites "
            "with `prepare`, or set the clock of this machine"
        )


@contextlib.contextmanager
def connect_tls(name: str, address: Address, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """Connect to the service ``name`` and check its certificate.

    Raises
    ------
    DeploymentFailed
        One end rejects the certificate of the other; a later attempt would fail, too.
    OSError
        The service does not answer now.
    """
    where = f"the {name} at {address}"
    try:
        plain = socket.create_connection((address.host, address.port), timeout=HANDSHAKE_SECONDS)
        with plain, context.wrap_socket(plain, server_hostname=address.host) as connection:
            yield connection
    except ssl.SSLCertVerificationError as error:
        raise DeploymentFailed(
            f"{where} shows an invalid certificate: {_remedy(name, address, error.verify_message or str(error))}"
        ) from None
    except socket.gaierror as error:
        raise DeploymentFailed(
            f"{where}: the host name is unknown ({error.strerror}); give `prepare` another address of the {name}, "
            "or add the name to the name service of this machine"
        ) from None
    except ssl.SSLEOFError:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None
    except ssl.SSLError as error:
        raise DeploymentFailed(
            f"{where} and this site cannot agree on TLS: {error.reason or error}; check the address and the port, and "
            f"use a folder from the same `prepare` as that of the {name}"
        ) from None


def _remedy(name: str, address: Address, reason: str) -> str:
    if "expired" in reason or "not yet valid" in reason:
        return f"{reason}; make new folders of all sites with `prepare`, or set the clock of this machine"
    if "match" in reason:
        return f"{reason}; make new folders with {address.host} among the names of the {name}"
    return f"{reason}; use a folder from the same `prepare` as that of the {name}"


class Tunnels:
    """Forwards connections, in a thread that ends with the block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tunnels", daemon=True)
        self._exit = contextlib.ExitStack()
        self._servers: list[asyncio.AbstractServer] = []

    def __enter__(self) -> Tunnels:
        self._thread.start()
        return self

    def forward_to_server(self, listener: socket.socket, address: Address) -> None:
        """Forward connections of ``listener``, which other machines cannot reach, to ``address`` unchanged."""
        connect = partial(asyncio.open_connection, address.host, address.port)
        self._serve(listener, lambda near: self._forward(near, connect))

    def forward_key_holder(self, endpoint: Path, address: Address, context: ssl.SSLContext) -> None:
        """Write the file of an endpoint whose socket leads to the key holder at ``address``.

        Raises
        ------
        DeploymentFailed
            The key holder rejects this site.
        OSError
            The key holder does not answer.
        """
        known = _fetch_endpoint(address, context)
        # Other users cannot list this folder, and the path of a socket must be short.
        sockets = Path(tempfile.mkdtemp(prefix="ppml-"))
        self._exit.callback(shutil.rmtree, sockets, ignore_errors=True)

        async def connect() -> Streams:
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            writer.write(FORWARD)
            return reader, writer

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(sockets / "holder"))
        listener.listen()
        self._serve(listener, lambda near: self._forward(near, connect))
        write_private(endpoint, json.dumps({**known, "address": str(sockets / "holder")}).encode())
        self._exit.callback(endpoint.unlink, missing_ok=True)

    def serve_key_holder(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        endpoints: Mapping[str, Path],
        on_change: Callable[[str, int], None],
    ) -> None:
        """Forward each site that connects to ``listener`` to its endpoint.

        Parameters
        ----------
        listener : socket
            Listening socket for other machines.
        context : SSLContext
            Requires a certificate of each site.
        endpoints : mapping of str to Path
            File of a site's endpoint, by the name in its certificate.
        on_change : callable
            Called with the name of a site and 1 when its connection is forwarded, and -1 when that connection ends.
        """

        async def receive(near: Streams) -> None:
            reader, writer = near
            name = _subject(writer)
            endpoint = endpoints.get(name)
            first = await asyncio.wait_for(reader.read(1), HANDSHAKE_SECONDS)
            if endpoint is None or first not in (FETCH, FORWARD):
                return
            known = json.loads(endpoint.read_text(encoding="utf-8"))
            if first == FETCH:
                writer.write(json.dumps(known).encode() + b"\n")
                await writer.drain()
                return
            on_change(name, 1)
            try:
                await self._forward(near, lambda: asyncio.open_unix_connection(known["address"]))
            finally:
                on_change(name, -1)

        self._serve(listener, receive, context)

    def _serve(
        self,
        listener: socket.socket,
        receive: Callable[[Streams], Awaitable[None]],
        context: ssl.SSLContext | None = None,
    ) -> None:
        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # The end of the block cancels this task; asyncio of Python 3.11 would print a traceback.
            with contextlib.suppress(OSError, ValueError, KeyError, TimeoutError, asyncio.CancelledError):
                await receive((reader, writer))
            with contextlib.suppress(OSError):
                writer.close()

        async def begin() -> None:
            limit = None if context is None else HANDSHAKE_SECONDS
            start = asyncio.start_unix_server if listener.family == socket.AF_UNIX else asyncio.start_server
            self._servers.append(await start(guarded, sock=listener, ssl=context, ssl_handshake_timeout=limit))

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result()

    async def _forward(self, near: Streams, connect: Callable[[], Awaitable[Streams]]) -> None:
        far = await connect()
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
    """Copy bytes until one side closes, then close the other."""
    with contextlib.suppress(OSError):
        while part := await reader.read(CHUNK):
            writer.write(part)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


def _subject(writer: asyncio.StreamWriter) -> str:
    """Return the name in the certificate of the other end."""
    certificate = writer.get_extra_info("peercert") or {}
    return next((value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"), "")


def _fetch_endpoint(address: Address, context: ssl.SSLContext) -> dict[str, Any]:
    """Return the content of the file of this site's endpoint."""
    content = b""
    with connect_tls(KEY_HOLDER, address, context) as connection, contextlib.suppress(ssl.SSLError, ConnectionError):
        # The key holder checks this site's certificate after the handshake, and disconnects if it is invalid.
        connection.sendall(FETCH)
        with connection.makefile("rb") as file:
            content = file.readline(MAX_ENDPOINT_BYTES)
    if not content:
        raise DeploymentFailed(
            f"the {KEY_HOLDER} at {address} rejects this site; use a folder from the same `prepare` as that of the "
            f"{KEY_HOLDER}"
        )
    found: dict[str, Any] = json.loads(content)
    return found
