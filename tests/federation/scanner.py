"""Looks for a secret in what travels, in every form in which it could leave a client by mistake."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, ModuleType

import numpy as np
import tenseal as ts
from tenseal import sealapi

from ppml.aggregation.lattice import loaded, split_length_prefixed
from ppml.config.technique import Ckks

from ..aggregation.local import Local

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


def serialized_secret(side: Local) -> bytes:
    """Return the stream that SEAL makes of the secret key."""
    return side.keys.secret()


def secret_coefficients(side: Local) -> np.ndarray:
    """Return the secret polynomial as SEAL keeps it, one word a coefficient and prime."""
    polynomial = side.keys._secret.data()
    return np.array([polynomial[place] for place in range(polynomial.coeff_count())], dtype="<u8")


def secret_key_in(payloads: Iterable[bytes], side: Local) -> bool:
    """Return whether the secret key of ``side``, or a part of it, is in one of ``payloads``.

    Looked for are its coefficients in either byte order, the compressed stream that SEAL makes of it, and anything
    that SEAL reads as a secret key, or TenSEAL as a context with one.
    """
    coefficients = secret_coefficients(side)
    # What the stream of another key has, too, is its header.
    header = serialized_secret(Local(Ckks(), 3))
    words = telling_words(
        [coefficients.tobytes(), coefficients.astype(">u8").tobytes(), serialized_secret(side)], known=header
    )
    assert len(words) > 1.9 * len(coefficients)
    return any(
        holds_a_run(payload, words) or any(opens_as_secret(piece, side) for piece in pieces(payload))
        for payload in payloads
    )


def pieces(payload: bytes) -> list[bytes]:
    """Return ``payload`` and what is packed in it, if anything, as far as it can be read."""
    found = [payload]
    with suppress(ValueError):
        for piece in split_length_prefixed(memoryview(payload)):
            found.append(bytes(piece))
    return found


def opens_as_secret(payload: bytes, side: Local) -> bool:
    """Return whether SEAL reads a secret key from ``payload``, or TenSEAL a context with one."""
    with suppress(Exception):
        loaded(sealapi.SecretKey(), side.scheme.context, payload, whole=False)
        return True
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


def reachable(*roots: object) -> Iterator[object]:
    """Yield everything that can be reached from ``roots``, through attributes and closures."""
    seen, waiting = set(), list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | BuiltinFunctionType):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, FunctionType):
            # Not its globals, which lead everywhere.
            waiting += [cell.cell_contents for cell in one.__closure__ or ()]
            waiting += [one.__defaults__, one.__kwdefaults__, one.__dict__]
        else:
            waiting += gc.get_referents(one)


def secret_holders(*roots: object) -> list[object]:
    """Return every secret key that can be reached from ``roots``, and what can decrypt or makes keys."""
    return [
        one
        for one in reachable(*roots)
        if isinstance(one, sealapi.SecretKey | sealapi.Decryptor | sealapi.KeyGenerator)
    ]
