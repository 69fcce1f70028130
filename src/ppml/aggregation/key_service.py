"""The key holder as a service: clients and server in other programs connect to it through sockets."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ppml.aggregation import bfv, ckks
from ppml.aggregation.interfaces import ServerKeyMaterial
from ppml.aggregation.key_holder import (
    CLIENT_REQUESTS,
    KEY_HOLDER,
    SERVER_REQUESTS,
    KeyHolderClient,
    KeyHolderService,
    PublicKeyClient,
)
from ppml.aggregation.lattice import PublicKeyClients, Scheme
from ppml.config.technique import Bfv, Ckks
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT, EndpointSpec, connect, serve_sockets

MAX_SUM_BYTES, MAX_ID_BYTES = 2**30, 2**10
"""Largest requests: clients send an encrypted sum, the server the identifier of one."""


def scheme_of(spec: Ckks | Bfv, clients: int) -> Scheme:
    """Return the encryption scheme for ``clients`` clients per round."""
    return ckks.scheme_of(spec) if isinstance(spec, Ckks) else bfv.scheme_of(spec, clients)


def start_key_service(spec: Ckks | Bfv, clients: int, folder: Path) -> AbstractContextManager[None]:
    """Run the holder of a new key within a ``with`` block; ``folder`` holds the sockets and their access keys."""
    return serve_sockets(
        KEY_HOLDER,
        lambda: KeyHolderService(scheme_of(spec, clients), spec.rounds_per_key),
        folder,
        {
            CLIENT_ENDPOINT: EndpointSpec(CLIENT_REQUESTS["public"], MAX_SUM_BYTES),
            SERVER_ENDPOINT: EndpointSpec(SERVER_REQUESTS, MAX_ID_BYTES),
        },
    )


def client_side(spec: Ckks | Bfv, clients: int, folder: Path) -> PublicKeyClients:
    """Return clients that are connected to the key holder."""
    return PublicKeyClients(scheme_of(spec, clients), KeyHolderClient(connect(KEY_HOLDER, folder / CLIENT_ENDPOINT)))


def server_material(folder: Path) -> ServerKeyMaterial:
    """Return the server's key material, connected to the key holder."""
    return PublicKeyClient(connect(KEY_HOLDER, folder / SERVER_ENDPOINT))
