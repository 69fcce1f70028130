"""Streams of SEAL are validated field by field; an accepted stream reads as by SEAL alone."""

from __future__ import annotations

import gc
import os
import signal
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tenseal import sealapi

from ppml.aggregation import sandboxed_reader
from ppml.aggregation.lattice import deserialize, serialize, split_length_prefixed
from ppml.aggregation.sandboxed_reader import SandboxedReader, read, read_all
from ppml.aggregation.seal_streams import is_secret_key, max_stream_bytes, parms_id_bytes, public_key_format
from ppml.config.technique import Bfv
from ppml.errors import InvalidUpdate

from ..fuzz.mutations import HEADER, PLAIN, ZLIB, ZSTD, bomb, stream_of, stream_with, uncompressed
from .local import SPECS, Local

UPDATE = np.arange(-50, 50)


@cache
def sealed(name: str) -> tuple[Local, bytes]:
    """Return clients and one of their ciphertexts."""
    local = Local(SPECS[name], 3)
    (stream,) = split_length_prefixed(memoryview(local.protect(UPDATE, 0, 1).payload)[44:])
    return local, bytes(stream)


def refusal(name: str, stream: bytes) -> str:
    """Return the error message for a ciphertext."""
    with pytest.raises(InvalidUpdate) as refused:
        sealed(name)[0].scheme.format.uncompressed(stream)
    return str(refused.value)


@pytest.mark.parametrize("name", SPECS)
def test_accepted_stream_reads_as_by_seal_alone(name: str) -> None:
    local, stream = sealed(name)
    theirs = serialize(deserialize(sealapi.Ciphertext(), local.scheme.context, stream))
    assert serialize(read(sealapi.Ciphertext(), local.scheme.format, stream)) == theirs
    assert [serialize(one) for one in read_all(sealapi.Ciphertext, local.scheme.format, [stream] * 40)] == [theirs] * 40


U64 = struct.Struct("<Q")
FIELDS = {
    "another ring": (0, bytes(32), "no ciphertext of this ring"),
    "another form": (32, b"\x07", "not fresh"),
    "no polynomial": (33, U64.pack(0), "not fresh"),
    "three polynomials": (33, U64.pack(3), "not fresh"),
    "another degree": (41, U64.pack(2**60), "no ciphertext of this ring"),
    "no prime": (49, U64.pack(0), "no ciphertext of this ring"),
    "scale 0": (57, struct.pack("<d", 0.0), "at scale 0"),
    "no scale": (57, struct.pack("<d", float("nan")), "at scale nan"),
    "a scale without end": (57, struct.pack("<d", float("inf")), "at scale inf"),
    "a factor": (65, U64.pack(2), "no ciphertext of this ring"),
    "an inner array that claims zlib": (78, bytes([ZLIB]), "an inner stream"),
    "an inner array that claims zstd": (78, bytes([ZSTD]), "an inner stream"),
    "an inner array of another length": (81, U64.pack(2**63), "an inner stream"),
    "an inner array of another version": (76, b"\x03\x02", "an inner stream"),
    "another number of coefficients": (89, U64.pack(2**61), "coefficients"),
}


@pytest.mark.parametrize(("at", "field", "says"), FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("name", SPECS)
def test_each_wrong_field_is_refused(name: str, at: int, field: bytes, says: str) -> None:
    assert says in refusal(name, stream_with(sealed(name)[1], at, field))


@pytest.mark.parametrize("name", SPECS)
def test_other_ntt_form_is_refused(name: str) -> None:
    other = b"\x00" if name.startswith("ckks") else b"\x01"
    assert "not fresh" in refusal(name, stream_with(sealed(name)[1], 32, other))


@pytest.mark.parametrize("at", [-81, -76, -65])
def test_wrong_seed_field_is_refused(at: int) -> None:
    stream = sealed("bfv shared")[1]
    place = len(uncompressed(stream)) + at
    assert refusal("bfv shared", stream_with(stream, place, b"\xff"))


@pytest.mark.parametrize("mode", [PLAIN, ZLIB])
def test_other_compression_is_refused(mode: int) -> None:
    stream = sealed("ckks public")[1]
    assert "not compressed with" in refusal("ckks public", stream_of(stream, uncompressed(stream), mode))


def test_wrong_content_size_is_refused_before_decompression() -> None:
    _, stream = sealed("ckks public")
    body = uncompressed(stream)
    for other in (stream_of(stream, body, tells_size=False), stream_of(stream, body + b"\x00"), stream[:16] + bomb()):
        changed = HEADER.pack(stream[:5], ZSTD, 0, len(other)) + other[16:]
        assert refusal("ckks public", changed)


def test_truncated_inner_stream_is_refused() -> None:
    stream = sealed("bfv public")[1]
    body = bytearray(uncompressed(stream))
    body[78] = ZSTD
    assert "bytes, not" in refusal("bfv public", stream_of(stream, bytes(body[:20_000])))


def test_sandboxed_seal_refuses_coefficient_above_prime() -> None:
    local, stream = sealed("bfv public")
    with pytest.raises(InvalidUpdate, match="SEAL cannot read the stream: ciphertext data is invalid"):
        read(sealapi.Ciphertext(), local.scheme.format, stream_with(stream, 97, b"\xff" * 8))


def test_honest_streams_keep_size_bound() -> None:
    for name in SPECS:
        local, stream = sealed(name)
        assert len(stream) <= max_stream_bytes(len(uncompressed(stream))) < len(uncompressed(stream)) + 400
        assert len(local.protect(UPDATE).payload) <= local.scheme.max_bytes(len(UPDATE))


def test_secret_key_is_recognized() -> None:
    local, stream = sealed("ckks public")
    context = local.scheme.context
    assert is_secret_key(context, local.keys.secret())
    assert not any(is_secret_key(context, one) for one in (stream, local.keys.public, b"", b"x" * 100))
    assert public_key_format(context).level == parms_id_bytes(context.key_parms_id())


# The sandbox process.


def open_files(process: int) -> set[str]:
    found = [str(one.readlink()) for one in Path(f"/proc/{process}/fd").iterdir()]
    return {"socket" if "socket:" in one else one for one in found}


class Ending:
    """A key that crashes its reader."""

    def load(self, context: object, path: str) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hanging:
    """A key that blocks its reader."""

    def load(self, context: object, path: str) -> None:
        while True:
            pass


class Growing:
    """A key that allocates too much memory."""

    def load(self, context: object, path: str) -> None:
        bytearray(1 << 36)


def find_error(kind: type, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the error of a new reader for a kind of object, and check that it reads the next stream."""
    local, stream = sealed("bfv public")
    monkeypatch.setattr(sandboxed_reader, "OBJECT_TYPES", (*sandboxed_reader.OBJECT_TYPES, kind))
    monkeypatch.setattr(sandboxed_reader, "CPU_SECONDS", 0)
    reader = SandboxedReader(local.scheme.context)
    with sandboxed_reader.temporary_file(local.scheme.format.uncompressed(stream)) as (number, _):
        why = reader.find_error(kind, [number], 10)
        assert reader.find_error(sealapi.Ciphertext, [number], 10) == ""
    reader._end()
    return why


def test_crashing_stream_is_refused_and_next_one_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find_error(Ending, monkeypatch) == "the sandbox process ended by SIGSEGV"
    assert find_error(Hanging, monkeypatch) == "the sandbox process ended by SIGXCPU"
    assert find_error(Growing, monkeypatch) == "MemoryError"


def test_killed_sandbox_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = SandboxedReader(sealed("bfv public")[0].scheme.context)
    ended = []
    start = reader._start

    def started() -> object:
        process, line = start()
        if not ended:
            ended.append(process)
            os.kill(process, signal.SIGKILL)
        return process, line

    monkeypatch.setattr(reader, "_start", started)
    local, stream = sealed("bfv public")
    with sandboxed_reader.temporary_file(local.scheme.format.uncompressed(stream)) as (number, _):
        assert reader.find_error(sealapi.Ciphertext, [number], 10) == "" and ended
    reader._end()


def test_hanging_fork_is_replaced_by_new_program(monkeypatch: pytest.MonkeyPatch) -> None:
    local, stream = sealed("bfv public")
    reader = SandboxedReader(local.scheme.context)
    monkeypatch.setattr(sandboxed_reader, "WAIT_SECONDS", 0.5)
    # The fork hangs, as with an inherited lock.
    monkeypatch.setattr(sandboxed_reader, "_serve", lambda connection, context: signal.pause())
    forked = []
    fork = sandboxed_reader._fork
    monkeypatch.setattr(sandboxed_reader, "_fork", lambda *given: forked.append(fork(*given)) or forked[-1])
    with sandboxed_reader.temporary_file(local.scheme.format.uncompressed(stream)) as (number, _):
        assert reader.find_error(sealapi.Ciphertext, [number], 10) == ""
    assert len(forked) == 1 and not Path(f"/proc/{forked[0]}").exists()
    process, _ = reader._process  # type: ignore[misc]
    assert b"ppml.aggregation.sandboxed_reader" in Path(f"/proc/{process}/cmdline").read_bytes()
    assert open_files(process) == {"/dev/null", "socket"}
    with sandboxed_reader.temporary_file([b"x" * 100]) as (number, _):
        assert reader.find_error(sealapi.Ciphertext, [number], 100) != ""
    reader.close()


@pytest.mark.parametrize("name", SPECS)
def test_new_program_reads_streams_of_each_scheme(name: str) -> None:
    local, stream = sealed(name)
    reader = SandboxedReader(local.scheme.context)
    reader._spawns = True
    with sandboxed_reader.temporary_file(local.scheme.format.uncompressed(stream)) as (number, _):
        assert reader.find_error(sealapi.Ciphertext, [number], 10) == ""
    reader.close()


def test_sandbox_has_no_file_of_caller() -> None:
    local, stream = sealed("bfv public")
    read(sealapi.Ciphertext(), local.scheme.format, stream)
    process, _ = sandboxed_reader._reader_of(local.scheme.context)._process  # type: ignore[misc]
    assert open_files(process) == {"/dev/null", "socket"}


def test_forked_process_starts_own_sandbox() -> None:
    local, stream = sealed("bfv public")
    read(sealapi.Ciphertext(), local.scheme.format, stream)
    before = sandboxed_reader._readers[parms_id_bytes(local.scheme.context.key_parms_id())]._process
    child = os.fork()
    if child == 0:
        fresh = not sandboxed_reader._readers
        read(sealapi.Ciphertext(), local.scheme.format, stream)
        os._exit(0 if fresh else 1)
    assert os.waitpid(child, 0)[1] == 0
    read(sealapi.Ciphertext(), local.scheme.format, stream)
    assert sandboxed_reader._readers[parms_id_bytes(local.scheme.context.key_parms_id())]._process == before


def test_sandbox_ends_with_last_context_of_ring() -> None:
    ring = Local(Bfv(clip=2.0), 3)
    key = parms_id_bytes(ring.scheme.context.key_parms_id())
    other = Local(Bfv(clip=2.0), 3)
    for local in (ring, other):
        read(sealapi.PublicKey(), public_key_format(local.scheme.context), local.keys.public)
    process, _ = sandboxed_reader._readers[key]._process  # type: ignore[misc]
    del ring, local
    gc.collect()
    # The remaining contexts can read, also in a new process.
    assert sandboxed_reader._readers[key]._process[0] == process  # type: ignore[index]
    os.kill(process, signal.SIGKILL)
    read(sealapi.PublicKey(), public_key_format(other.scheme.context), other.keys.public)
    process, _ = sandboxed_reader._readers[key]._process  # type: ignore[misc]
    del other
    gc.collect()
    assert key not in sandboxed_reader._readers
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
