"""Random draws that belong to a record: neither another record nor a position enters them.

A draw is a keyed hash (BLAKE2b, RFC 7693) of a number, of a step or a copy, and of the record itself. Where a record
is added or removed, every other record keeps its draws to the bit: what is calculated of a record from its draws
depends on that record alone, and a sum over records of terms of norm at most C changes by at most C.

Equal records have equal draws here. That is harmless for such a sum: the term of each of them is still a function of
that record alone, and none of them changes where the others are missing. Samples are another matter, since a record
must enter a step whether or not its equal does; :mod:`ppml.learning.poisson` tells equal records apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ppml.randomness import Randomness

DIGEST_BYTES = 32
"""Length of the digest of a record: no two different records have the same by chance or by design."""

MOST_DRAWS = 8
"""Draws of a record in a step, at most: 8 bytes each of a hash that has 64."""

_RECORDS_AT_ONCE = 1000


def record_digests(values: torch.Tensor, labels: torch.Tensor | None = None) -> tuple[bytes, ...]:
    """Return a digest of each record: of all bytes of its values, and of its label where there are labels.

    Parameters
    ----------
    values : torch.Tensor
        Shape ``(n, ...)``, of any type, in any order of memory and on any device.
    labels : torch.Tensor or None
        int64, shape ``(n,)``.

    Returns
    -------
    tuple of bytes
        :data:`DIGEST_BYTES` each. They have no key and stand for the records: they belong where the records belong.
    """
    digests: list[bytes] = []
    for start in range(0, len(values), _RECORDS_AT_ONCE):
        part = values[start : start + _RECORDS_AT_ONCE].detach().cpu().contiguous()
        rows = part.reshape(len(part), -1).numpy().view(np.uint8)
        digests += [hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in rows]
    if labels is None:
        return tuple(digests)
    told = labels.detach().cpu().numpy().astype("<i8").tobytes()
    return tuple(
        hashlib.blake2b(digest + told[8 * place : 8 * place + 8], digest_size=DIGEST_BYTES).digest()
        for place, digest in enumerate(digests)
    )


def draws_of_records(rng: Randomness, number: int, digests: Sequence[bytes], count: int) -> NDArray[np.float64]:
    """Return ``count`` draws of each record, uniform in [0, 1) with 53 bits, shape ``(n, count)``.

    Parameters
    ----------
    rng : Randomness
        The purpose of the draws; its key is that of the hash.
    number : int
        Of the step or the copy, at least 0.
    digests : sequence of bytes
        Of :func:`record_digests`.
    count : int
        At most :data:`MOST_DRAWS`.

    Examples
    --------
    >>> rng, records = Randomness(1).child("shift"), [b"one", b"other"]
    >>> bool((draws_of_records(rng, 3, records, 2)[1] == draws_of_records(rng, 3, records[1:], 2)[0]).all())
    True
    """
    key, prefix, size = rng.key, number.to_bytes(8, "little"), 8 * count
    drawn = b"".join([hashlib.blake2b(prefix + digest, key=key, digest_size=size).digest() for digest in digests])
    bits = np.frombuffer(drawn, dtype="<u8").reshape(len(digests), count)
    uniform: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def draws_of_step(rng: Randomness, number: int, count: int) -> NDArray[np.float64]:
    """Return ``count`` draws of a step, which no record enters, uniform in [0, 1), shape ``(count,)``."""
    drawn: NDArray[np.float64] = draws_of_records(rng, number, [b""], count)[0]
    return drawn
