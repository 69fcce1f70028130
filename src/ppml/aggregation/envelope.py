"""What tells one stream of bytes from another, and a whole one from a damaged one."""

from __future__ import annotations

import hashlib
import struct

from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.errors import InvalidUpdate

FINGERPRINT_BYTES = 16
"""Bytes of a mark."""

_HEADER = struct.Struct("<IQ")
_TOLERANCE_BYTES = 4096

HEADER_BYTES = _HEADER.size
"""Bytes of what says whose an update is, and of which round."""

SUM_HEADER = bytes(HEADER_BYTES)
"""Stands there in a sum."""


def header_of(client: int, number: int) -> bytes:
    """Return what says that an update is of ``client`` in round ``number``."""
    return _HEADER.pack(client + 1, number)


def check_header(said: bytes | memoryview, client: int, number: int) -> None:
    """Raise an error unless an update that says ``said`` is of ``client`` in round ``number``."""
    who, when = _HEADER.unpack(said)
    if who == 0:
        raise InvalidUpdate("it is a sum, and no update")
    if who != client + 1:
        raise InvalidUpdate(f"it was sealed by client {who - 1}")
    if when != number:
        raise InvalidUpdate(f"it was sealed in round {when}")


def client_and_round(sealed: ProtectedUpdate) -> tuple[int, int]:
    """Return of which client and round an update says that it is.

    Raises
    ------
    InvalidUpdate
        It is cut off, or a sum.
    """
    said = sealed.payload[FINGERPRINT_BYTES : FINGERPRINT_BYTES + HEADER_BYTES]
    if len(said) < HEADER_BYTES or said == SUM_HEADER:
        raise InvalidUpdate("it does not say of which client and round it is")
    who, when = _HEADER.unpack(said)
    return who - 1, when


def fingerprint(*parts: bytes | memoryview) -> bytes:
    """Return what ``parts``, one after the other, are known by; they are not copied together for it."""
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def check_size(sealed: ProtectedUpdate, most: int) -> None:
    """Raise an error where an update has more than ``most`` bytes, before any of them is read; a few do no harm."""
    if len(sealed.payload) > most + _TOLERANCE_BYTES:
        raise InvalidUpdate(f"{len(sealed.payload)} bytes for {sealed.length} values, which take {most}")


def make_envelope(scheme: str, length: int, content: bytes, origin: bytes = SUM_HEADER) -> ProtectedUpdate:
    """Return ``content``, which stands for ``length`` values, as it travels: with a checksum, and of whom it is."""
    return ProtectedUpdate(scheme, length, b"".join([_checksum(length, origin, content), origin, content]))


def verified_payload(sealed: ProtectedUpdate) -> bytes:
    """Return what :func:`make_envelope` was given.

    Raises
    ------
    InvalidUpdate
        It is damaged.
    """
    mark, rest = sealed.payload[:FINGERPRINT_BYTES], memoryview(sealed.payload)[FINGERPRINT_BYTES:]
    if len(rest) < HEADER_BYTES or mark != _checksum(sealed.length, rest):
        raise InvalidUpdate("it was cut off or altered on the way")
    return sealed.payload[FINGERPRINT_BYTES + HEADER_BYTES :]


def payload_from(sealed: ProtectedUpdate, client: int, number: int) -> bytes:
    """Return what :func:`make_envelope` was given by ``client`` in round ``number``.

    Raises
    ------
    InvalidUpdate
        It is damaged, or of another client or round.
    """
    content = verified_payload(sealed)
    check_header(sealed.payload[FINGERPRINT_BYTES : FINGERPRINT_BYTES + HEADER_BYTES], client, number)
    return content


def _checksum(length: int, *parts: bytes | memoryview) -> bytes:
    return fingerprint(length.to_bytes(8, "little"), *parts)
