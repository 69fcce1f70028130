"""A sandbox process that reads streams of other parties first, so that a crash in SEAL does not end the caller.

:mod:`~ppml.aggregation.seal_streams` passes no stream to SEAL that is known to crash it. An unknown one ends the
sandbox, and the stream is refused. The sandbox is forked at the first stream, with a copy of the caller's memory and no
open file but the socket to the caller. Streams are files in memory that both processes have open, so that no bytes are
copied.

A fork of a process with threads can inherit a locked lock and hang. A sandbox that does not reply in time is therefore
replaced by a new program, which inherits no memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tenseal import sealapi

from ppml.aggregation.seal_serialization import descriptor_path, serialize, temporary_file
from ppml.aggregation.seal_streams import CiphertextFormat, SwitchingKeyFormat, parms_id_bytes
from ppml.errors import InvalidUpdate

OBJECT_TYPES: tuple[type, ...] = (sealapi.Ciphertext, sealapi.PublicKey, sealapi.RelinKeys, sealapi.GaloisKeys)

CPU_SECONDS, BYTES_PER_CPU_SECOND = 2, 4 << 20
"""CPU time for a request: a constant, plus one second per so many bytes."""

WAIT_SECONDS = 60.0
"""Wall time for a request on a busy machine, per second of its CPU time."""

START_SECONDS = 60.0
"""Additional wall time for a new program, which first imports SEAL."""

EXTRA_MEMORY, EXTRA_MEMORY_PER_BYTE = 256 << 20, 8
"""Additional memory for a request in bytes: a constant, plus a multiple of its own bytes."""

ATTEMPTS = 2
"""Number of sandboxes that must end at a stream before it is refused."""

BATCH_STREAMS, BATCH_BYTES = 32, 4 << 20
"""Streams per request: their number, and their bytes except for the last."""

_REPLY_BYTES = 1 << 12

_REQUEST = struct.Struct("<BBQ")
"""Index in :data:`OBJECT_TYPES`, number of streams, and their bytes."""

SEAL_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""Exceptions of SEAL's reader and arithmetic at invalid streams."""


Format = CiphertextFormat | SwitchingKeyFormat
Stream = bytes | memoryview


def read(target: Any, form: Format, stream: Stream) -> Any:
    """Read the ciphertext or key of another party into ``target``, a new object, and return it.

    Raises
    ------
    InvalidUpdate
        The stream has another format, or SEAL cannot read it.
    """
    (target,) = read_all(lambda: target, form, [stream])
    return target


def read_all(
    make: Callable[[], Any], form: Format, streams: Iterable[Stream], *, checked: bool = False
) -> Iterator[Any]:
    """Yield the objects in streams of another party, each read into an object that ``make`` returns.

    See :func:`read`. Streams that were read before are ``checked``, and skip the sandbox.
    """
    for batch in _batches(map(form.uncompressed, streams)):
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(temporary_file(parts)) for parts in batch]
            targets = [make() for _ in files]
            if not checked:
                size = sum(len(part) for parts in batch for part in parts)
                error = _reader_of(form.context).find_error(type(targets[0]), [number for number, _ in files], size)
                if error:
                    raise InvalidUpdate(f"SEAL cannot read the stream: {error}")
            for target, (_, path) in zip(targets, files, strict=True):
                try:
                    target.load(form.context, path)
                except SEAL_ERRORS as error:
                    raise InvalidUpdate(f"SEAL cannot read the stream: {error}") from None
        yield from targets


def _batches(streams: Iterable[Sequence[bytes]]) -> Iterator[list[Sequence[bytes]]]:
    """Yield the streams of each request to the sandbox."""
    batch, size = list[Sequence[bytes]](), 0
    for parts in streams:
        batch.append(parts)
        size += sum(map(len, parts))
        if len(batch) == BATCH_STREAMS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class SandboxedReader:
    """A reader of the streams of one ring, in a sandbox process that ends with the caller at the latest.

    Parameters
    ----------
    context : SEALContext
        Context of the ring, kept as a weak reference.

    Attributes
    ----------
    context : weakref to SEALContext
        The context of the latest request.
    users : set of int
        Identities of the context objects of the ring.
    """

    def __init__(self, context: sealapi.SEALContext) -> None:
        self.context = weakref.ref(context)
        self.users: set[int] = set()
        self._lock = threading.Lock()
        self._process: tuple[int, socket.socket] | None = None
        self._spawns = False

    def find_error(self, kind: type, files: Sequence[int], size: int) -> str:
        """Return SEAL's error at some open ``files`` of ``size`` bytes in total; an empty string for none."""
        with self._lock:
            # A second sandbox reads a stream at which the first one ended by a fault of the machine.
            for _ in range(ATTEMPTS):
                reply = self._ask(_REQUEST.pack(OBJECT_TYPES.index(kind), len(files), size), files, size)
                if reply:
                    return reply[1:].decode(errors="replace")
                end = self._end()
        return end

    def _ask(self, request: bytes, files: Sequence[int], size: int) -> bytes:
        """Return the reply of the sandbox; empty bytes where it has ended or does not reply in time."""
        seconds = WAIT_SECONDS * (1 + size / BYTES_PER_CPU_SECOND)
        if self._process is None:
            self._process = self._start()
            seconds += START_SECONDS if self._spawns else 0
        _, connection = self._process
        try:
            socket.send_fds(connection, [request], files)
            if select.select([connection], [], [], seconds)[0]:
                return connection.recv(_REPLY_BYTES)
        except OSError:
            return b""
        self._spawns = True
        return b""

    def close(self) -> None:
        """End the sandbox, if it runs."""
        if self._process is not None:
            self._end()

    def _end(self) -> str:
        """End the sandbox, and return a description of its end."""
        assert self._process is not None
        process, connection = self._process
        self._process = None
        connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return _describe_end(process)

    def forget(self) -> None:
        """Forget the sandbox in a fork of the process that started it."""
        if self._process is not None:
            self._process[1].close()
            self._process = None

    def _start(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        context = self.context()
        assert context is not None
        with theirs:
            return (_spawn if self._spawns else _fork)(theirs, context), ours


def _fork(connection: socket.socket, context: sealapi.SEALContext) -> int:
    """Fork a sandbox, and return its process id."""
    process = os.fork()
    if process == 0:
        _serve(connection, context)
    return process


def _spawn(connection: socket.socket, context: sealapi.SEALContext) -> int:
    """Start a sandbox as a new program with ``connection`` as standard input, and return its process id."""
    parameters = context.key_context_data().parms()
    name = parameters.scheme().name
    arguments = [sys.executable, "-P", "-m", __name__, name, serialize(parameters).hex()]
    path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
    actions = [(os.POSIX_SPAWN_DUP2, connection.fileno(), 0)]
    return os.posix_spawn(sys.executable, arguments, {**os.environ, "PYTHONPATH": path}, file_actions=actions)


_readers: dict[bytes, SandboxedReader] = {}


def _reader_of(context: sealapi.SEALContext) -> SandboxedReader:
    """Return this process's reader of a ring."""
    ring = parms_id_bytes(context.key_parms_id())
    reader = _readers.setdefault(ring, SandboxedReader(context))
    reader.context = weakref.ref(context)
    if id(context) not in reader.users:
        reader.users.add(id(context))
        weakref.finalize(context, _remove_user, ring, id(context)).atexit = False
    return reader


def _remove_user(ring: bytes, user: int) -> None:
    """End the reader of a ring after its last context is deleted."""
    reader = _readers.get(ring)
    if reader is not None and user in reader.users:
        reader.users.discard(user)
        if not reader.users:
            del _readers[ring]
            reader.close()


def _forget_readers() -> None:
    for reader in _readers.values():
        reader.forget()
    _readers.clear()


# A forked process starts its own sandbox: two callers on one socket would read each other's replies.
os.register_at_fork(after_in_child=_forget_readers)


def _describe_end(process: int) -> str:
    """Return a description of the end of a process."""
    try:
        _, status = os.waitpid(process, 0)
    except ChildProcessError:
        return "the sandbox process was reaped by other code"
    code = os.waitstatus_to_exitcode(status)
    cause = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"the sandbox process ended {cause}"


def _serve(connection: socket.socket, context: sealapi.SEALContext) -> NoReturn:
    """Answer requests until the caller closes its end, then end this process."""
    code = 1
    try:
        _close_all_but(connection.fileno())
        max_size = 0
        while True:
            request, files, _, _ = socket.recv_fds(connection, _REQUEST.size, BATCH_STREAMS)
            if not request:
                code = 0
                break
            kind, count, size = _REQUEST.unpack(request)
            _limit_time(size)
            if size > max_size:
                _limit_memory(size)
                max_size = size
            error = "files are missing" if len(files) < count else _try_to_load(OBJECT_TYPES[kind], context, files)
            for number in files:
                os.close(number)
            connection.send(b"." + error.encode())
    finally:
        os._exit(code)


def _try_to_load(kind: type, context: sealapi.SEALContext, files: Sequence[int]) -> str:
    try:
        for number in files:
            kind().load(context, descriptor_path(number))
    except SEAL_ERRORS as error:
        return str(error)[:300] or type(error).__name__
    return ""


def _close_all_but(number: int) -> None:
    """Close all inherited files but one, and reset the inherited signal handlers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, number)
    os.closerange(number + 1, limit)
    # The copied memory may contain secret keys.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(size: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS + size // BYTES_PER_CPU_SECOND
    _limit(resource.RLIMIT_CPU, seconds)


def _limit_memory(size: int) -> None:
    """Limit the additional memory for streams of ``size`` bytes, where the system reports the memory in use."""
    if used := _memory_in_use():
        _limit(resource.RLIMIT_AS, used + EXTRA_MEMORY + EXTRA_MEMORY_PER_BYTE * size)


def _limit(which: int, soft: int) -> None:
    _, hard = resource.getrlimit(which)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _memory_in_use() -> int:
    """Return the size of this process's address space in bytes; 0 where the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def main(scheme: str, parameters: str) -> NoReturn:
    """Run a sandbox as a program of its own, with standard input as the socket to the caller."""
    ring = sealapi.EncryptionParameters(getattr(sealapi.SCHEME_TYPE, scheme))
    with temporary_file([bytes.fromhex(parameters)]) as (_, path):
        ring.load(path)
    # The caller has checked the security level.
    context = sealapi.SEALContext(ring, True, sealapi.SEC_LEVEL_TYPE.NONE)
    _serve(socket.socket(fileno=os.dup(0)), context)


if __name__ == "__main__":
    main(*sys.argv[1:])
