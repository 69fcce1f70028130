"""BFV: whole numbers, a value a coefficient; sums are exact, and a decryption has no error that could tell anything."""

from __future__ import annotations

import numpy as np
from tenseal import sealapi as seal

from ppml.aggregation.capacity import bfv_ring
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.lattice import LatticeClients, LatticeServer, Scheme, ring
from ppml.config.technique import Bfv


class BfvEncoding:
    """Grid points as integers modulo a prime that is larger than any sum.

    Parameters
    ----------
    context : SEALContext
        A ring of BFV.
    """

    def __init__(self, context: seal.SEALContext) -> None:
        self._encoder = seal.BatchEncoder(context)

    @property
    def values(self) -> int:
        """One a coefficient."""
        return int(self._encoder.slot_count())

    def encode(self, values: Grid) -> seal.Plaintext:
        """Return the values."""
        plain = seal.Plaintext()
        self._encoder.encode(values.tolist(), plain)
        return plain

    def decode(self, plain: seal.Plaintext) -> Grid:
        """Return the values."""
        return np.array(self._encoder.decode_int64(plain), dtype=np.int64)

    def check(self, cipher: seal.Ciphertext) -> None:
        """Have nothing to say: in one ring all ciphertexts add."""


def scheme_of(spec: Bfv, clients: int) -> Scheme:
    """Return the smallest ring that holds the sum of so many updates, and how values lie in it."""
    found = bfv_ring(clients, spec.clip, spec.fractional_bits, spec.keys)
    context = ring(seal.SCHEME_TYPE.BFV, found.degree, [found.modulus_bits], found.plain_bits)
    return Scheme("bfv", context, BfvEncoding(context))


def client_side(spec: Bfv, clients: int) -> LatticeClients:
    """Return the clients, with new keys."""
    return LatticeClients(scheme_of(spec, clients), spec.keys)


def server_side(spec: Bfv, clients: int, public_material: bytes) -> LatticeServer:
    """Return the server."""
    return LatticeServer(scheme_of(spec, clients), public_material)
