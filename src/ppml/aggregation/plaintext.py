"""Aggregation without protection: the server sees every update."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import ProtectedUpdate, SingleStep, check_scheme
from ppml.errors import InvalidUpdate


def to_plaintext(values: Grid, dtype: str) -> ProtectedUpdate:
    """Return ``values`` as little-endian integers of ``dtype``, ``<i4`` or ``<i8``."""
    return ProtectedUpdate("plaintext", len(values), values.astype(dtype).tobytes())


def from_plaintext(upload: ProtectedUpdate) -> Grid:
    """Return the values as 64-bit integers; see :func:`payload_integers`."""
    return payload_integers(upload).astype(np.int64)


def payload_integers(upload: ProtectedUpdate) -> NDArray[np.signedinteger]:
    """Return a view of the payload as integers of 4 or 8 bytes.

    Raises
    ------
    InvalidUpdate
        The payload has another length.
    """
    for dtype in ("<i4", "<i8"):
        if len(upload.payload) == upload.length * np.dtype(dtype).itemsize:
            return np.frombuffer(upload.payload, dtype=dtype)
    raise InvalidUpdate(f"{len(upload.payload)} bytes for {upload.length} values of 4 or 8 bytes each")


class PlaintextAggregation(SingleStep):
    """Clients and server of an aggregation in plaintext.

    Parameters
    ----------
    codec : FixedPointCodec
        The grid; with ``clients`` it decides between 32 and 64 bits.
    clients : int
        Largest number of updates in a sum.
    """

    def __init__(self, codec: FixedPointCodec, clients: int) -> None:
        self._largest = int(np.rint(codec.clip / codec.step))
        self._dtype = "<i4" if clients * self._largest < 2**31 else "<i8"

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return ``update`` as little-endian integers."""
        return to_plaintext(update, self._dtype)

    def check(self, upload: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise an error unless every value is within the clipping bound, so that no sum overflows."""
        check_scheme(upload, "plaintext")
        values = payload_integers(upload)
        # The absolute value of the smallest integer is negative, so both ends are compared.
        if len(values) and not -self._largest <= values.min() <= values.max() <= self._largest:
            raise InvalidUpdate("a value exceeds the clipping bound of updates")

    def add(self, uploads: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the exact sum."""
        total = np.zeros(uploads[0].length, dtype=np.int64)
        for upload in uploads:
            total += payload_integers(upload)
        return self.protect(total)

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the integers."""
        return from_plaintext(total)
