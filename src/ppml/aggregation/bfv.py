"""BFV: integer values, one per coefficient, with exact sums and decryptions without an error."""

from __future__ import annotations

import numpy as np
from tenseal import sealapi

from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.interfaces import Parties, ServerKeyMaterial
from ppml.aggregation.key_holder import lattice_parties
from ppml.aggregation.lattice import LatticeServer, Scheme, seal_context
from ppml.aggregation.seal_streams import CiphertextFormat, fresh_ciphertext
from ppml.aggregation_parameters import bfv_ring
from ppml.config.technique import Bfv


class BfvEncoding:
    """Encoding of grid points as integers modulo a prime larger than any sum.

    Parameters
    ----------
    context : SEALContext
        BFV context.
    """

    def __init__(self, context: sealapi.SEALContext) -> None:
        self._context = context
        self._encoder = sealapi.BatchEncoder(context)

    @property
    def values(self) -> int:
        """Values per ciphertext: one per coefficient."""
        return int(self._encoder.slot_count())

    def encode(self, values: Grid) -> sealapi.Plaintext:
        """Return the encoded values."""
        plain = sealapi.Plaintext()
        self._encoder.encode(values.tolist(), plain)
        return plain

    def decode(self, plain: sealapi.Plaintext) -> Grid:
        """Return the decoded values."""
        return np.array(self._encoder.decode_int64(plain), dtype=np.int64)

    def format(self) -> CiphertextFormat:
        """Return the format of a fresh ciphertext, which is not in NTT form."""
        return fresh_ciphertext(self._context, ntt=False)


def scheme_of(spec: Bfv, clients: int) -> Scheme:
    """Return the scheme with the smallest ring that holds the sum of ``clients`` updates."""
    found = bfv_ring(clients, spec.clip, spec.fractional_bits, spec.keys)
    context = seal_context(sealapi.SCHEME_TYPE.BFV, found.degree, [found.modulus_bits], found.plain_bits)
    return Scheme("bfv", context, BfvEncoding(context))


def parties(spec: Bfv, clients: int) -> Parties:
    """Return the clients, with the holder of a new key."""
    return lattice_parties(lambda: scheme_of(spec, clients), spec.keys, spec.rounds_per_key)


def server_side(spec: Bfv, clients: int, material: ServerKeyMaterial) -> LatticeServer:
    """Return the server."""
    return LatticeServer(scheme_of(spec, clients), material)
