"""Encrypted aggregation between programs: each site is given the door to the holder of the key that is for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ppml.aggregation import bfv, ckks
from ppml.aggregation.interfaces import ServerKeyMaterial
from ppml.aggregation.key_holder import CLIENT_REQUESTS, SERVER_REQUESTS, KEY_HOLDER, KeyHolderClient, KeyHolderService, PublicKeyClient
from ppml.aggregation.lattice import PublicKeyClients, Scheme
from ppml.config.technique import Bfv, Ckks
from ppml.ipc.socket_server import CLIENT_ENDPOINT, SERVER_ENDPOINT, EndpointSpec, connect, serve_sockets

MAX_SUM_BYTES, MAX_ID_BYTES = 2**30, 2**10
"""Most bytes of a question: clients send an encrypted sum, the server the name of one."""


def scheme_of(spec: Ckks | Bfv, clients: int) -> Scheme:
    """Return what ``clients`` encrypt in."""
    return ckks.scheme_of(spec) if isinstance(spec, Ckks) else bfv.scheme_of(spec, clients)


def start_key_service(spec: Ckks | Bfv, clients: int, folder: Path) -> AbstractContextManager[None]:
    """Start the holder of a new key, which ends with the block and lets in whoever has its files in ``folder``."""
    return serve_sockets(
        KEY_HOLDER,
        lambda: KeyHolderService(scheme_of(spec, clients), spec.rounds_per_key),
        folder,
        {CLIENT_ENDPOINT: EndpointSpec(CLIENT_REQUESTS["public"], MAX_SUM_BYTES), SERVER_ENDPOINT: EndpointSpec(SERVER_REQUESTS, MAX_ID_BYTES)},
    )


def client_side(spec: Ckks | Bfv, clients: int, folder: Path) -> PublicKeyClients:
    """Return what a site of clients has."""
    return PublicKeyClients(scheme_of(spec, clients), KeyHolderClient(connect(KEY_HOLDER, folder / CLIENT_ENDPOINT)))


def server_material(folder: Path) -> ServerKeyMaterial:
    """Return what the site of the server has: a line on which it gets the public key, and says what is a sum."""
    return PublicKeyClient(connect(KEY_HOLDER, folder / SERVER_ENDPOINT))
