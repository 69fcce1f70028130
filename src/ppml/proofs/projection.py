"""Random projections of an update or a share: sums of its values times -1, 0 or 1, modulo a prime."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ppml.aggregation.primitives import prg
from ppml.proofs.prime_field import Elements, join_limbs, split_limbs

BLOCK = 2048
"""Values per block, so that intermediate results fit in the processor's cache."""


def project(seed: bytes, rows: int, values: Elements) -> Elements:
    """Return ``rows`` projections with signs from ``seed``; the result is linear in ``values``.

    Sums are over limbs of 21 bits in float64, exact for up to 2^32 values.
    """
    sums = np.zeros((rows, len(split_limbs(values[:0]))))
    for number, start in enumerate(range(0, len(values), BLOCK)):
        limbs = split_limbs(values[start : start + BLOCK])
        sums += signs(seed, number, rows)[:, : limbs.shape[1]] @ limbs.T
    return join_limbs(sums.T)


def signs(seed: bytes, number: int, rows: int) -> NDArray[np.float64]:
    """Return the signs of one block: the differences of two random bits each."""
    key = hashlib.sha256(b"ppml signs" + number.to_bytes(8, "little") + seed).digest()
    bits = np.unpackbits(prg(key, 2 * rows * BLOCK // 8, 1).astype(np.uint8)).reshape(2, rows, BLOCK).view(np.int8)
    differences: NDArray[np.int8] = bits[0] - bits[1]
    return differences.astype(np.float64)
