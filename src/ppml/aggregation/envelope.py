"""The envelope of an update: a checksum, and a header with the client and the round."""

from __future__ import annotations

import hashlib
import struct

from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.errors import InvalidUpdate

FINGERPRINT_BYTES = 16

_HEADER = struct.Struct("<IQ")
_TOLERANCE_BYTES = 4096

HEADER_BYTES = _HEADER.size

SUM_HEADER = bytes(HEADER_BYTES)
"""Header of a sum, which belongs to no client."""


def header_of(client: int, number: int) -> bytes:
    """Return the header of an update of ``client`` in round ``number``."""
    return _HEADER.pack(client + 1, number)


def check_header(header: bytes | memoryview, client: int, number: int) -> None:
    """Raise an error unless ``header`` is that of ``client`` in round ``number``."""
    sender, found = _HEADER.unpack(header)
    if sender == 0:
        raise InvalidUpdate("the upload is a sum, not an update")
    if sender != client + 1:
        raise InvalidUpdate(f"the upload is of client {sender - 1}")
    if found != number:
        raise InvalidUpdate(f"the upload is of round {found}")


def client_and_round(upload: ProtectedUpdate) -> tuple[int, int]:
    """Return the client and the round in the header of an update.

    Raises
    ------
    InvalidUpdate
        The update is truncated, or is a sum.
    """
    header = upload.payload[FINGERPRINT_BYTES : FINGERPRINT_BYTES + HEADER_BYTES]
    if len(header) < HEADER_BYTES or header == SUM_HEADER:
        raise InvalidUpdate("the header does not name a client and a round")
    sender, number = _HEADER.unpack(header)
    return sender - 1, number


def fingerprint(*parts: bytes | memoryview) -> bytes:
    """Return the BLAKE2b hash of the concatenated ``parts``, without a copy of them."""
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def check_size(upload: ProtectedUpdate, max_bytes: int) -> None:
    """Raise an error where an update has clearly more than ``max_bytes`` bytes, before any of them is read."""
    if len(upload.payload) > max_bytes + _TOLERANCE_BYTES:
        raise InvalidUpdate(f"{len(upload.payload)} bytes for {upload.length} values, which take {max_bytes}")


def make_envelope(scheme: str, length: int, content: bytes, header: bytes = SUM_HEADER) -> ProtectedUpdate:
    """Return ``content``, which encodes ``length`` values, with its checksum and header."""
    return ProtectedUpdate(scheme, length, b"".join([_checksum(length, header, content), header, content]))


def verified_payload(upload: ProtectedUpdate) -> bytes:
    """Return the content that :func:`make_envelope` was called with.

    Raises
    ------
    InvalidUpdate
        The checksum is wrong.
    """
    checksum, rest = upload.payload[:FINGERPRINT_BYTES], memoryview(upload.payload)[FINGERPRINT_BYTES:]
    if len(rest) < HEADER_BYTES or checksum != _checksum(upload.length, rest):
        raise InvalidUpdate("the upload was truncated or altered")
    return upload.payload[FINGERPRINT_BYTES + HEADER_BYTES :]


def payload_from(upload: ProtectedUpdate, client: int, number: int) -> bytes:
    """Return the content of an update of ``client`` in round ``number``.

    Raises
    ------
    InvalidUpdate
        The checksum is wrong, or the header names another client or round.
    """
    content = verified_payload(upload)
    check_header(upload.payload[FINGERPRINT_BYTES : FINGERPRINT_BYTES + HEADER_BYTES], client, number)
    return content


def _checksum(length: int, *parts: bytes | memoryview) -> bytes:
    return fingerprint(length.to_bytes(8, "little"), *parts)
