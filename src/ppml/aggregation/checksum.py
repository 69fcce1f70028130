"""What tells one stream of bytes from another, and a whole one from a damaged one."""

from __future__ import annotations

import hashlib

from ppml.aggregation.protocol import BadUpdate, Sealed

MARK = 16
"""Bytes of a mark."""


def mark_of(*parts: bytes | memoryview) -> bytes:
    """Return what ``parts``, one after the other, are known by; they are not copied together for it."""
    digest = hashlib.blake2b(digest_size=MARK)
    for part in parts:
        digest.update(part)
    return digest.digest()


def sealed_of(scheme: str, length: int, content: bytes) -> Sealed:
    """Return ``content``, which stands for ``length`` values, as it travels: with a checksum."""
    return Sealed(scheme, length, _checksum(length, content) + content)


def content_of(sealed: Sealed) -> bytes:
    """Return what :func:`sealed_of` was given.

    Raises
    ------
    BadUpdate
        It is damaged.
    """
    mark, content = sealed.payload[:MARK], sealed.payload[MARK:]
    if mark != _checksum(sealed.length, content):
        raise BadUpdate("it was cut off or altered on the way")
    return content


def _checksum(length: int, content: bytes) -> bytes:
    return mark_of(length.to_bytes(8, "little"), content)
