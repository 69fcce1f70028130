"""Encrypted aggregation between programs: each site is given the door to the holder of the key that is for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ppml.aggregation import bfv, ckks
from ppml.aggregation.interfaces import PublicMaterial
from ppml.aggregation.key_holder import BY_CLIENTS, BY_SERVER, HOLDER, HolderLine, KeyRing, PublicLine
from ppml.aggregation.lattice import PublicKeyClients, Scheme
from ppml.config.technique import Bfv, Ckks
from ppml.ipc.socket_server import FOR_CLIENTS, FOR_SERVER, Door, enter, open_doors

MOST_OF_A_SUM, MOST_OF_A_NAME = 2**30, 2**10
"""Most bytes of a question: clients send an encrypted sum, the server the name of one."""


def scheme_of(spec: Ckks | Bfv, clients: int) -> Scheme:
    """Return what ``clients`` encrypt in."""
    return ckks.scheme_of(spec) if isinstance(spec, Ckks) else bfv.scheme_of(spec, clients)


def hold_keys(spec: Ckks | Bfv, clients: int, folder: Path) -> AbstractContextManager[None]:
    """Start the holder of a new key, which ends with the block and lets in whoever has its files in ``folder``."""
    return open_doors(
        HOLDER,
        lambda: KeyRing(scheme_of(spec, clients), spec.rounds_a_key),
        folder,
        {FOR_CLIENTS: Door(BY_CLIENTS["public"], MOST_OF_A_SUM), FOR_SERVER: Door(BY_SERVER, MOST_OF_A_NAME)},
    )


def client_side(spec: Ckks | Bfv, clients: int, folder: Path) -> PublicKeyClients:
    """Return what a site of clients has."""
    return PublicKeyClients(scheme_of(spec, clients), HolderLine(enter(HOLDER, folder / FOR_CLIENTS)))


def server_material(folder: Path) -> PublicMaterial:
    """Return what the site of the server has: a line on which it gets the public key, and says what is a sum."""
    return PublicLine(enter(HOLDER, folder / FOR_SERVER))
