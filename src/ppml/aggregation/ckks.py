"""CKKS by TenSEAL: clients encrypt and decrypt, the server adds ciphertexts.

One key pair a run, made at the clients' side from the operating system's entropy and held in memory only. All clients
share it, so that one client colluding with the server can open every update.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
import tenseal as ts

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.protocol import BadUpdate, Sealed, SecretKeyExposed, refuse_scheme
from ppml.config.technique import Ckks

_LENGTH = struct.Struct("<I")


class CkksClients:
    """The clients' side: holds the secret key, seals updates under the public key, opens sums.

    Parameters
    ----------
    spec : Ckks
        Parameters, checked to give 128 bits of security.
    """

    def __init__(self, spec: Ckks) -> None:
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS, spec.poly_modulus_degree, -1, list(spec.coeff_mod_bit_sizes), n_threads=1
        )
        self._context.global_scale = 2.0**spec.scale_bits
        self._codec = FixedPointCodec(spec.clip, spec.fractional_bits)
        self._slots = spec.poly_modulus_degree // 2

    def public_material(self) -> bytes:
        """Return the parameters and the public key: what the server needs to read and add ciphertexts."""
        return bytes(
            self._context.serialize(
                save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
            )
        )

    def seal(self, update: Grid) -> Sealed:
        """Return ``update`` encrypted, as many values a ciphertext as it has slots."""
        values = self._codec.decode(update)
        chunks = [values[start : start + self._slots] for start in range(0, len(values), self._slots)]
        return Sealed("ckks", len(update), _pack(ts.ckks_vector(self._context, chunk).serialize() for chunk in chunks))

    def unseal(self, total: Sealed) -> Grid:
        """Return the sum rounded to the grid: the raw decryption is not shown to anyone."""
        parts = [ts.ckks_vector_from(self._context, chunk).decrypt() for chunk in _unpack(total.payload)]
        return np.rint(np.concatenate(parts) / self._codec.step).astype(np.int64)


class CkksServer:
    """The server's side: adds ciphertexts.

    Parameters
    ----------
    public_material : bytes
        From :meth:`CkksClients.public_material`.
    slots : int
        Values a ciphertext.

    Raises
    ------
    SecretKeyExposed
        The material holds a secret key.
    """

    def __init__(self, public_material: bytes, slots: int = 2048) -> None:
        self._context = ts.context_from(public_material, n_threads=1)
        if self._context.has_secret_key():
            raise SecretKeyExposed("the material sent to the server holds a secret key")
        self._slots = slots

    def check(self, sealed: Sealed) -> None:
        """Raise an error unless the payload is what its length needs: ciphertexts under the parameters of this run."""
        refuse_scheme(sealed, "ckks")
        expected = [min(self._slots, sealed.length - start) for start in range(0, sealed.length, self._slots)]
        try:
            found = [ts.ckks_vector_from(self._context, chunk).size() for chunk in _unpack(sealed.payload)]
        except Exception as error:
            raise BadUpdate(f"no ciphertexts under the parameters of this run: {error}") from None
        if found != expected:
            raise BadUpdate(f"ciphertexts of {found} values where {expected} are needed")

    def add(self, sealed: Sequence[Sealed]) -> Sealed:
        """Return the encrypted sum, ciphertext by ciphertext."""
        columns = zip(*(_unpack(one.payload) for one in sealed), strict=True)
        return Sealed("ckks", sealed[0].length, _pack(self._add_column(column) for column in columns))

    def _add_column(self, chunks: Sequence[bytes]) -> bytes:
        total = ts.ckks_vector_from(self._context, chunks[0])
        for chunk in chunks[1:]:
            total += ts.ckks_vector_from(self._context, chunk)
        return bytes(total.serialize())


def _pack(chunks: Iterator[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(chunk)) + chunk for chunk in chunks)


def _unpack(payload: bytes) -> Iterator[bytes]:
    """Yield what :func:`_pack` packed, or raise a ValueError where the payload is cut off."""
    place = 0
    while place < len(payload):
        if len(payload) - place < _LENGTH.size:
            raise ValueError("the payload is cut off within a length")
        (length,) = _LENGTH.unpack_from(payload, place)
        place += _LENGTH.size
        if len(payload) - place < length:
            raise ValueError("the payload is cut off within a ciphertext")
        yield payload[place : place + length]
        place += length
