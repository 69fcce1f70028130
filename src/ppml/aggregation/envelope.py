"""What tells one stream of bytes from another, and a whole one from a damaged one."""

from __future__ import annotations

import hashlib
import struct

from ppml.aggregation.interfaces import BadUpdate, Sealed

MARK = 16
"""Bytes of a mark."""

_ORIGIN = struct.Struct("<IQ")
_FEW = 4096

ORIGIN = _ORIGIN.size
"""Bytes of what says whose an update is, and of which round."""

OF_ALL = bytes(ORIGIN)
"""Stands there in a sum."""


def origin_of(client: int, number: int) -> bytes:
    """Return what says that an update is of ``client`` in round ``number``."""
    return _ORIGIN.pack(client + 1, number)


def refuse_origin(said: bytes | memoryview, client: int, number: int) -> None:
    """Raise an error unless an update that says ``said`` is of ``client`` in round ``number``."""
    who, when = _ORIGIN.unpack(said)
    if who == 0:
        raise BadUpdate("it is a sum, and no update")
    if who != client + 1:
        raise BadUpdate(f"it was sealed by client {who - 1}")
    if when != number:
        raise BadUpdate(f"it was sealed in round {when}")


def origin_in(sealed: Sealed) -> tuple[int, int]:
    """Return of which client and round an update says that it is.

    Raises
    ------
    BadUpdate
        It is cut off, or a sum.
    """
    said = sealed.payload[MARK : MARK + ORIGIN]
    if len(said) < ORIGIN or said == OF_ALL:
        raise BadUpdate("it does not say of which client and round it is")
    who, when = _ORIGIN.unpack(said)
    return who - 1, when


def mark_of(*parts: bytes | memoryview) -> bytes:
    """Return what ``parts``, one after the other, are known by; they are not copied together for it."""
    digest = hashlib.blake2b(digest_size=MARK)
    for part in parts:
        digest.update(part)
    return digest.digest()


def refuse_excess(sealed: Sealed, most: int) -> None:
    """Raise an error where an update has more than ``most`` bytes, before any of them is read; a few do no harm."""
    if len(sealed.payload) > most + _FEW:
        raise BadUpdate(f"{len(sealed.payload)} bytes for {sealed.length} values, which take {most}")


def sealed_of(scheme: str, length: int, content: bytes, origin: bytes = OF_ALL) -> Sealed:
    """Return ``content``, which stands for ``length`` values, as it travels: with a checksum, and of whom it is."""
    return Sealed(scheme, length, b"".join([_checksum(length, origin, content), origin, content]))


def content_of(sealed: Sealed) -> bytes:
    """Return what :func:`sealed_of` was given.

    Raises
    ------
    BadUpdate
        It is damaged.
    """
    mark, rest = sealed.payload[:MARK], memoryview(sealed.payload)[MARK:]
    if len(rest) < ORIGIN or mark != _checksum(sealed.length, rest):
        raise BadUpdate("it was cut off or altered on the way")
    return sealed.payload[MARK + ORIGIN :]


def content_from(sealed: Sealed, client: int, number: int) -> bytes:
    """Return what :func:`sealed_of` was given by ``client`` in round ``number``.

    Raises
    ------
    BadUpdate
        It is damaged, or of another client or round.
    """
    content = content_of(sealed)
    refuse_origin(sealed.payload[MARK : MARK + ORIGIN], client, number)
    return content


def _checksum(length: int, *parts: bytes | memoryview) -> bytes:
    return mark_of(length.to_bytes(8, "little"), *parts)
