"""No protection: the server sees every update. The null object of aggregation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.protocol import Sealed


class PlaintextAggregation:
    """Both sides of an aggregation in the clear.

    Parameters
    ----------
    codec : FixedPointCodec
        The grid; with ``clients`` it tells whether 32 bits hold the sum.
    clients : int
        How many updates a sum may have.
    """

    def __init__(self, codec: FixedPointCodec, clients: int) -> None:
        largest = clients * (np.rint(codec.clip / codec.step))
        self._dtype = np.dtype("<i4") if largest < 2**31 else np.dtype("<i8")

    def seal(self, update: Grid) -> Sealed:
        """Return ``update`` as little-endian integers."""
        return Sealed("plaintext", len(update), update.astype(self._dtype).tobytes())

    def add(self, sealed: Sequence[Sealed]) -> Sealed:
        """Return the exact sum."""
        return self.seal(np.sum([self.unseal(one) for one in sealed], axis=0, dtype=np.int64))

    def unseal(self, total: Sealed) -> Grid:
        """Return the integers."""
        return np.frombuffer(total.payload, dtype=self._dtype).astype(np.int64)

    def public_material(self) -> bytes:
        """Return nothing: adding needs no key."""
        return b""
