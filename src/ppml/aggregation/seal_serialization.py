"""What SEAL writes and reads: it takes files only, here ones in memory where the system has them."""

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
"""Whether what SEAL writes stays off the disk; elsewhere ciphertexts and public keys pass through temporary files."""

STREAM_SIZE = struct.Struct("<8xQ")
"""Where every stream of SEAL says how long it is."""


def serialize(one: Any) -> bytes:
    """Return what SEAL writes of a key or ciphertext."""
    with temporary_file(()) as (number, path):
        one.save(path)
        return os.pread(number, os.fstat(number).st_size, 0)


def deserialize(one: Any, context: sealapi.SEALContext, stream: bytes | memoryview, *, whole: bool = True) -> Any:
    """Let SEAL read ``stream`` into ``one``, a new key or ciphertext, and return it.

    SEAL ends the process at some streams that its writer never makes: see
    :func:`ppml.aggregation.sandboxed_reader.read` for those of others.

    Raises
    ------
    RuntimeError, ValueError
        It is cut off or longer than it says, or not of this ring.
    """
    if whole and (len(stream) < STREAM_SIZE.size or STREAM_SIZE.unpack_from(stream)[0] != len(stream)):
        raise ValueError("it is not as long as it says")
    with temporary_file([stream]) as (_, path):
        one.load(context, path)
    return one


@contextlib.contextmanager
def temporary_file(parts: Sequence[bytes | memoryview]) -> Iterator[tuple[int, str]]:
    """Give a file that holds ``parts``, one after the other: its descriptor and its path in this process."""
    if FILES_IN_MEMORY:
        number = os.memfd_create("ppml")
        path, leave = descriptor_path(number), None
    else:
        number, path = leave = tempfile.mkstemp()
    try:
        place = 0
        for part in parts:
            place += _write_all(number, part, place)
        yield number, path
    finally:
        os.close(number)
        if leave:
            Path(path).unlink()


def descriptor_path(number: int) -> str:
    """Return the path of an open file in the process that has it open."""
    return f"/dev/fd/{number}"


def _write_all(number: int, part: bytes | memoryview, place: int) -> int:
    """Write all of ``part``; the system takes at most 2 GiB at once."""
    whole = memoryview(part)
    done = 0
    while done < len(whole):
        done += os.pwrite(number, whole[done:], place + done)
    return done
