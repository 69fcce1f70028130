"""Serialization of SEAL objects: SEAL reads and writes files only, which this module keeps in memory if it can."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tenseal import sealapi

FILES_IN_MEMORY = hasattr(os, "memfd_create")
"""Whether SEAL's files stay in memory; otherwise ciphertexts and public keys pass through temporary files."""

STREAM_SIZE = struct.Struct("<8xQ")
"""The field of SEAL's header with the length of the stream."""


def serialize(source: Any) -> bytes:
    """Return the stream that SEAL writes for a key, ciphertext or set of parameters."""
    with temporary_file(()) as (number, path):
        source.save(path)
        return os.pread(number, os.fstat(number).st_size, 0)


def deserialize(target: Any, context: sealapi.SEALContext, stream: bytes | memoryview, *, whole: bool = True) -> Any:
    """Let SEAL read ``stream`` into ``target``, a new key or ciphertext, and return it.

    Some invalid streams crash SEAL; :func:`ppml.aggregation.sandboxed_reader.read` is for streams of other parties.

    Raises
    ------
    RuntimeError, ValueError
        The stream is truncated, longer than its header says, or of another ring.
    """
    if whole and (len(stream) < STREAM_SIZE.size or STREAM_SIZE.unpack_from(stream)[0] != len(stream)):
        raise ValueError("the stream has another length than its header says")
    with temporary_file([stream]) as (_, path):
        target.load(context, path)
    return target


@contextlib.contextmanager
def temporary_file(parts: Sequence[bytes | memoryview]) -> Iterator[tuple[int, str]]:
    """Provide a file with the concatenated ``parts``: its descriptor and its path in this process."""
    if FILES_IN_MEMORY:
        number = os.memfd_create("ppml")
        path, on_disk = descriptor_path(number), None
    else:
        number, path = on_disk = tempfile.mkstemp()
    try:
        offset = 0
        for part in parts:
            offset += _write_all(number, part, offset)
        yield number, path
    finally:
        os.close(number)
        if on_disk:
            Path(path).unlink()


def descriptor_path(number: int) -> str:
    """Return the path of an open file in its process."""
    return f"/dev/fd/{number}"


def _write_all(number: int, part: bytes | memoryview, offset: int) -> int:
    """Write all of ``part``, because the system writes at most 2 GiB per call; return its bytes."""
    content = memoryview(part)
    written = 0
    while written < len(content):
        written += os.pwrite(number, content[written:], offset + written)
    return written
