"""A scanner that finds secrets in messages, in every encoding in which a client could send them by mistake."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, ModuleType

import numpy as np
import tenseal as ts
from tenseal import sealapi

from ppml.aggregation.lattice import deserialize, split_length_prefixed
from ppml.config.technique import Ckks

from ..aggregation.local import Local

RUN = 4
"""Number of consecutive words of 8 bytes that count as a finding: 32 bytes are no coincidence."""


def words_of(data: bytes, offset: int = 0) -> np.ndarray:
    """Return the words of 8 bytes of ``data`` from ``offset``."""
    return np.frombuffer(data, dtype="<u8", count=max(0, len(data) - offset) // 8, offset=offset)


def secret_words(secrets: Iterable[bytes], known: bytes = b"") -> np.ndarray:
    """Return the words of ``secrets``, sorted, without words of few distinct bytes and words of ``known``."""
    words = np.unique(np.concatenate([words_of(secret) for secret in secrets]))
    distinct = (np.diff(np.sort(words.view(np.uint8).reshape(-1, 8), axis=1), axis=1) != 0).sum(axis=1) + 1
    common = np.concatenate([words_of(known, offset) for offset in range(min(8, len(known) + 1))])
    return words[(distinct >= 3) & ~np.isin(words, common)]


def holds_a_run(payload: bytes, words: np.ndarray) -> bool:
    """Return whether ``payload`` has ``RUN`` consecutive words among the sorted ``words``, at any offset."""
    for offset in range(min(8, len(payload))):
        read = words_of(payload, offset)
        found = words[np.minimum(np.searchsorted(words, read), len(words) - 1)] == read
        if len(found) >= RUN and np.convolve(found, np.ones(RUN), "valid").max() == RUN:
            return True
    return False


def serialized_secret(side: Local) -> bytes:
    """Return the secret key as serialized by SEAL."""
    return side.keys.secret()


def secret_coefficients(side: Local) -> np.ndarray:
    """Return the secret polynomial in SEAL's memory layout, one word per coefficient and prime."""
    polynomial = side.keys._secret.data()
    return np.array([polynomial[place] for place in range(polynomial.coeff_count())], dtype="<u8")


def secret_key_in(payloads: Iterable[bytes], side: Local) -> bool:
    """Return whether the secret key of ``side``, or a part of it, is in one of ``payloads``.

    The scan looks for its coefficients in either byte order, its compressed serialization by SEAL, and any bytes that
    SEAL reads as a secret key, or TenSEAL as a context with one.
    """
    coefficients = secret_coefficients(side)
    # The header is also in the serialization of another key.
    header = serialized_secret(Local(Ckks(), 3))
    words = secret_words(
        [coefficients.tobytes(), coefficients.astype(">u8").tobytes(), serialized_secret(side)], known=header
    )
    assert len(words) > 1.9 * len(coefficients)
    return any(
        holds_a_run(payload, words) or any(opens_as_secret(piece, side) for piece in pieces(payload))
        for payload in payloads
    )


def pieces(payload: bytes) -> list[bytes]:
    """Return ``payload`` and the readable parts that are packed in it."""
    found = [payload]
    with suppress(ValueError):
        for piece in split_length_prefixed(memoryview(payload)):
            found.append(bytes(piece))
    return found


def opens_as_secret(payload: bytes, side: Local) -> bool:
    """Return whether SEAL reads a secret key from ``payload``, or TenSEAL a context with one."""
    with suppress(Exception):
        deserialize(sealapi.SecretKey(), side.scheme.context, payload, whole=False)
        return True
    try:
        return bool(ts.context_from(payload).has_secret_key())
    except Exception:
        return False


def plaintext_forms(grid: np.ndarray, step: float) -> Iterator[bytes]:
    """Yield the possible encodings of an unprotected update."""
    for order in "<>":
        yield grid.astype(f"{order}i4").tobytes()
        yield grid.astype(f"{order}i8").tobytes()
        yield (grid * step).astype(f"{order}f4").tobytes()
        yield (grid * step).astype(f"{order}f8").tobytes()


def updates_in(payloads: Iterable[bytes], grids: Iterable[np.ndarray], step: float) -> bool:
    """Return whether one of ``payloads`` has a readable part of an update in ``grids``."""
    words = secret_words(form for grid in grids for form in plaintext_forms(grid, step))
    return any(holds_a_run(payload, words) for payload in payloads)


def reachable(*roots: object) -> Iterator[object]:
    """Yield all objects that are reachable from ``roots``, through attributes and closures."""
    seen, waiting = set(), list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | BuiltinFunctionType):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, FunctionType):
            # Not its globals, from which all modules are reachable.
            waiting += [cell.cell_contents for cell in one.__closure__ or ()]
            waiting += [one.__defaults__, one.__kwdefaults__, one.__dict__]
        else:
            waiting += gc.get_referents(one)


def secret_holders(*roots: object) -> list[object]:
    """Return all secret keys, decryptors and key generators that are reachable from ``roots``."""
    return [
        one
        for one in reachable(*roots)
        if isinstance(one, sealapi.SecretKey | sealapi.Decryptor | sealapi.KeyGenerator)
    ]
