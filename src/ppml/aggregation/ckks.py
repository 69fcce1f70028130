"""CKKS: real values, two per complex slot, with an error that rounding to the grid removes."""

from __future__ import annotations

import numpy as np
from tenseal import sealapi

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import Parties, ServerKeyMaterial
from ppml.aggregation.key_holder import lattice_parties
from ppml.aggregation.lattice import LatticeServer, Scheme, seal_context
from ppml.aggregation.seal_streams import CiphertextFormat, fresh_ciphertext
from ppml.config.technique import Ckks


class CkksEncoding:
    """Encoding of grid points as the real and imaginary parts of slots.

    Parameters
    ----------
    context : SEALContext
        CKKS context.
    codec : FixedPointCodec
        The grid.
    scale : float
        Factor of the values before they are rounded to integer coefficients.
    """

    def __init__(self, context: sealapi.SEALContext, codec: FixedPointCodec, scale: float) -> None:
        self._context = context
        self._encoder = sealapi.CKKSEncoder(context)
        self._codec = codec
        self._scale = scale
        self._slots = int(self._encoder.slot_count())

    @property
    def values(self) -> int:
        """Values per ciphertext: two per slot."""
        return 2 * self._slots

    def encode(self, values: Grid) -> sealapi.Plaintext:
        """Return the encoded values; the first half are the real parts."""
        parts = np.zeros(self.values)
        parts[: len(values)] = self._codec.decode(values)
        plain = sealapi.Plaintext()
        self._encoder.encode((parts[: self._slots] + 1j * parts[self._slots :]).tolist(), self._scale, plain)
        return plain

    def decode(self, plain: sealapi.Plaintext) -> Grid:
        """Return the values rounded to the grid.

        An approximate decryption can reveal the secret key (Li & Micciancio, EUROCRYPT 2021); the exact sum contains
        no information about its errors.
        """
        slots = np.array(self._encoder.decode_complex(plain))
        return np.rint(np.concatenate([slots.real, slots.imag]) / self._codec.step).astype(np.int64)

    def format(self) -> CiphertextFormat:
        """Return the format of a fresh ciphertext: in NTT form, at the scale."""
        return fresh_ciphertext(self._context, ntt=True, scale=self._scale)


def scheme_of(spec: Ckks) -> Scheme:
    """Return the scheme: the context and the encoding."""
    context = seal_context(sealapi.SCHEME_TYPE.CKKS, spec.poly_modulus_degree, spec.coeff_mod_bit_sizes)
    codec = FixedPointCodec(spec.clip, spec.fractional_bits)
    return Scheme("ckks", context, CkksEncoding(context, codec, 2.0**spec.scale_bits))


def parties(spec: Ckks, clients: int) -> Parties:
    """Return the clients, with the holder of a new key."""
    return lattice_parties(lambda: scheme_of(spec), spec.keys, spec.rounds_per_key)


def server_side(spec: Ckks, clients: int, material: ServerKeyMaterial) -> LatticeServer:
    """Return the server."""
    return LatticeServer(scheme_of(spec), material)
