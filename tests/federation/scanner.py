"""Looks for a secret in what travels, in every form in which it could leave a client by mistake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import tenseal as ts

from ppml.aggregation.ckks import CkksClients, _unpack
from ppml.config.technique import Ckks

RUN = 4
"""So many words of 8 bytes in a row are a find: 32 bytes are no accident."""


def words_of(data: bytes, offset: int = 0) -> np.ndarray:
    """Return the words of 8 bytes of ``data`` from ``offset``."""
    return np.frombuffer(data, dtype="<u8", count=max(0, len(data) - offset) // 8, offset=offset)


def telling_words(secrets: Iterable[bytes], known: bytes = b"") -> np.ndarray:
    """Return the words of ``secrets``, sorted, without those of few distinct bytes and those that are ``known``."""
    words = np.unique(np.concatenate([words_of(secret) for secret in secrets]))
    distinct = (np.diff(np.sort(words.view(np.uint8).reshape(-1, 8), axis=1), axis=1) != 0).sum(axis=1) + 1
    everyday = np.concatenate([words_of(known, offset) for offset in range(min(8, len(known) + 1))])
    return words[(distinct >= 3) & ~np.isin(words, everyday)]


def holds_a_run(payload: bytes, words: np.ndarray) -> bool:
    """Return whether ``RUN`` of the sorted ``words`` stand in a row anywhere in ``payload``, at any offset."""
    for offset in range(min(8, len(payload))):
        here = words_of(payload, offset)
        found = words[np.minimum(np.searchsorted(words, here), len(words) - 1)] == here
        if len(found) >= RUN and np.convolve(found, np.ones(RUN), "valid").max() == RUN:
            return True
    return False


def serialized_secret(side: CkksClients) -> bytes:
    """Return the stream that TenSEAL makes of the secret key."""
    return bytes(
        side._context.serialize(
            save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
    )


def secret_coefficients(side: CkksClients) -> np.ndarray:
    """Return the secret polynomial as SEAL keeps it, one word a coefficient and prime."""
    polynomial = side._context.secret_key().data.data()
    return np.array([polynomial[place] for place in range(polynomial.coeff_count())], dtype="<u8")


def secret_key_in(payloads: Iterable[bytes], side: CkksClients) -> bool:
    """Return whether the secret key of ``side``, or a part of it, is in one of ``payloads``.

    Looked for are its coefficients in either byte order, the compressed stream that TenSEAL makes of it, and anything
    that TenSEAL reads as a context with a secret key.
    """
    coefficients = secret_coefficients(side)
    # What the stream of another key has, too, is its header.
    header = serialized_secret(CkksClients(Ckks()))
    words = telling_words(
        [coefficients.tobytes(), coefficients.astype(">u8").tobytes(), serialized_secret(side)], known=header
    )
    assert len(words) > 1.9 * len(coefficients)
    return any(
        holds_a_run(payload, words) or any(map(opens_as_private_context, pieces(payload))) for payload in payloads
    )


def pieces(payload: bytes) -> list[bytes]:
    """Return ``payload`` and what is packed in it, if anything, as far as it can be read."""
    found = [payload]
    with suppress(ValueError):
        for piece in _unpack(payload):
            found.append(piece)
    return found


def opens_as_private_context(payload: bytes) -> bool:
    """Return whether TenSEAL reads a context with a secret key from ``payload``."""
    try:
        return bool(ts.context_from(payload).has_secret_key())
    except Exception:
        return False


def plaintext_forms(grid: np.ndarray, step: float) -> Iterator[bytes]:
    """Yield an update as it may travel unprotected."""
    for order in "<>":
        yield grid.astype(f"{order}i4").tobytes()
        yield grid.astype(f"{order}i8").tobytes()
        yield (grid * step).astype(f"{order}f4").tobytes()
        yield (grid * step).astype(f"{order}f8").tobytes()


def updates_in(payloads: Iterable[bytes], grids: Iterable[np.ndarray], step: float) -> bool:
    """Return whether a part of an update of ``grids`` is readable in one of ``payloads``."""
    words = telling_words(form for grid in grids for form in plaintext_forms(grid, step))
    return any(holds_a_run(payload, words) for payload in payloads)
