"""CKKS: real values, two in every slot as a complex one, with an error that rounding to the grid takes away."""

from __future__ import annotations

import numpy as np
from tenseal import sealapi as seal

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.lattice import LatticeClients, LatticeServer, Scheme, ring
from ppml.aggregation.protocol import BadUpdate
from ppml.config.technique import Ckks


class CkksEncoding:
    """Grid points as the real and the imaginary parts of slots.

    Parameters
    ----------
    context : SEALContext
        A ring of CKKS.
    codec : FixedPointCodec
        The grid.
    scale : float
        What values are multiplied by before they are rounded to whole coefficients.
    """

    def __init__(self, context: seal.SEALContext, codec: FixedPointCodec, scale: float) -> None:
        self._encoder = seal.CKKSEncoder(context)
        self._codec = codec
        self._scale = scale
        self._slots = int(self._encoder.slot_count())

    @property
    def values(self) -> int:
        """Two a slot."""
        return 2 * self._slots

    def encode(self, values: Grid) -> seal.Plaintext:
        """Return the values, the first half as real parts."""
        parts = np.zeros(self.values)
        parts[: len(values)] = self._codec.decode(values)
        plain = seal.Plaintext()
        self._encoder.encode((parts[: self._slots] + 1j * parts[self._slots :]).tolist(), self._scale, plain)
        return plain

    def decode(self, plain: seal.Plaintext) -> Grid:
        """Return the values rounded to the grid.

        An approximate decryption can give the secret key away (Li & Micciancio, EUROCRYPT 2021); the exact sum says
        nothing of the errors in it.
        """
        slots = np.array(self._encoder.decode_complex(plain))
        return np.rint(np.concatenate([slots.real, slots.imag]) / self._codec.step).astype(np.int64)

    def check(self, cipher: seal.Ciphertext) -> None:
        """Refuse another scale."""
        if cipher.scale != self._scale:
            raise BadUpdate(f"a ciphertext at scale {cipher.scale:g}, not {self._scale:g}")


def scheme_of(spec: Ckks) -> Scheme:
    """Return the ring and how values lie in it."""
    context = ring(seal.SCHEME_TYPE.CKKS, spec.poly_modulus_degree, spec.coeff_mod_bit_sizes)
    codec = FixedPointCodec(spec.clip, spec.fractional_bits)
    return Scheme("ckks", context, CkksEncoding(context, codec, 2.0**spec.scale_bits))


def client_side(spec: Ckks, clients: int) -> LatticeClients:
    """Return the clients, with new keys."""
    return LatticeClients(scheme_of(spec), spec.keys)


def server_side(spec: Ckks, clients: int, public_material: bytes) -> LatticeServer:
    """Return the server."""
    return LatticeServer(scheme_of(spec), public_material)
