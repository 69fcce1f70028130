"""Random draws of single examples, independent of all other examples and of their positions.

A draw is a keyed hash (BLAKE2b, RFC 7693) of a number, of a step or a view, and of the example itself. If an example is
added or removed, every other example keeps its draws to the bit. A term that depends on an example and its draws is a
function of that example only, so a sum over examples of terms of norm at most C changes by at most C.

Equal examples have equal draws. That is harmless for such a sum: each term remains a function of its example only.
Samples are different, since an example must enter a step independently of its duplicates;
:mod:`ppml.learning.poisson` distinguishes duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ppml.randomness import Randomness

DIGEST_BYTES = 32
"""Length of the digest of an example; collisions are infeasible."""

MAX_DRAWS = 8
"""Largest number of draws of an example in a step: a hash has 64 bytes, a draw 8."""

_CHUNK = 1000


def example_digests(values: torch.Tensor, labels: torch.Tensor | None = None) -> tuple[bytes, ...]:
    """Return a digest of each example: of all bytes of its values, and of its label if given.

    Parameters
    ----------
    values : torch.Tensor
        Values of shape ``(n, ...)``, of any type, memory order and device.
    labels : torch.Tensor or None
        Labels, int64, shape ``(n,)``.

    Returns
    -------
    tuple of bytes
        Digests of :data:`DIGEST_BYTES` each. They have no key, so they need the same protection as the examples.
    """
    digests: list[bytes] = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK].detach().cpu().contiguous()
        rows = chunk.reshape(len(chunk), -1).numpy().view(np.uint8)
        digests += [hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in rows]
    if labels is None:
        return tuple(digests)
    label_bytes = labels.detach().cpu().numpy().astype("<i8").tobytes()
    return tuple(
        hashlib.blake2b(digest + label_bytes[8 * place : 8 * place + 8], digest_size=DIGEST_BYTES).digest()
        for place, digest in enumerate(digests)
    )


def draws_per_example(rng: Randomness, number: int, digests: Sequence[bytes], count: int) -> NDArray[np.float64]:
    """Return ``count`` draws of each example, uniform in [0, 1) with 53 bits, shape ``(n, count)``.

    Parameters
    ----------
    rng : Randomness
        The node of the draws; its key is the key of the hash.
    number : int
        The number of the step or the view, at least 0.
    digests : sequence of bytes
        The digests of :func:`example_digests`.
    count : int
        The number of draws, at most :data:`MAX_DRAWS`.

    Examples
    --------
    >>> rng, digests = Randomness(1).child("shift"), [b"one", b"other"]
    >>> bool((draws_per_example(rng, 3, digests, 2)[1] == draws_per_example(rng, 3, digests[1:], 2)[0]).all())
    True
    """
    key, prefix, size = rng.key, number.to_bytes(8, "little"), 8 * count
    drawn = b"".join([hashlib.blake2b(prefix + digest, key=key, digest_size=size).digest() for digest in digests])
    bits = np.frombuffer(drawn, dtype="<u8").reshape(len(digests), count)
    uniform: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def draws_per_step(rng: Randomness, number: int, count: int) -> NDArray[np.float64]:
    """Return ``count`` draws of a step, independent of all examples, uniform in [0, 1), shape ``(count,)``."""
    drawn: NDArray[np.float64] = draws_per_example(rng, number, [b""], count)[0]
    return drawn
