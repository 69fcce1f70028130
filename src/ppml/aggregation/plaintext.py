"""No protection: the server sees every update. The null object of aggregation."""

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


def from_plaintext(sealed: ProtectedUpdate) -> Grid:
    """Return the integers; see :func:`payload_integers`."""
    return payload_integers(sealed).astype(np.int64)


def payload_integers(sealed: ProtectedUpdate) -> NDArray[np.signedinteger]:
    """Return the integers as they lie in the payload, 4 or 8 bytes each, whichever it has; nothing is copied.

    Raises
    ------
    InvalidUpdate
        The payload has another length.
    """
    for dtype in ("<i4", "<i8"):
        if len(sealed.payload) == sealed.length * np.dtype(dtype).itemsize:
            return np.frombuffer(sealed.payload, dtype=dtype)
    raise InvalidUpdate(f"{len(sealed.payload)} bytes for {sealed.length} values of 4 or 8 bytes each")


class PlaintextAggregation(SingleStep):
    """Both sides of an aggregation in the clear.

    Parameters
    ----------
    codec : FixedPointCodec
        The grid; with ``clients`` it tells whether 32 bits hold the sum.
    clients : int
        How many updates a sum may have.
    """

    def __init__(self, codec: FixedPointCodec, clients: int) -> None:
        self._largest = int(np.rint(codec.clip / codec.step))
        self._dtype = "<i4" if clients * self._largest < 2**31 else "<i8"

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return ``update`` as little-endian integers."""
        return to_plaintext(update, self._dtype)

    def check(self, sealed: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise an error unless every value is one that a client may send: what overflows a sum is no update."""
        check_scheme(sealed, "plaintext")
        values = payload_integers(sealed)
        # Not by their absolute values: that of the smallest integer is negative.
        if len(values) and not -self._largest <= values.min() <= values.max() <= self._largest:
            raise InvalidUpdate("a value beyond what updates are clipped to")

    def add(self, sealed: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the exact sum."""
        total = np.zeros(sealed[0].length, dtype=np.int64)
        for one in sealed:
            total += payload_integers(one)
        return self.protect(total)

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the integers."""
        return from_plaintext(total)
