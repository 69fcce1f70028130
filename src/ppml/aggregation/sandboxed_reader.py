"""A process that reads the streams of others first: where SEAL ends it, the process that asked goes on.

:mod:`~ppml.aggregation.seal_streams` gives SEAL nothing that it is known to fail at. What is not known yet ends this
process, and that stream is refused. It is forked at the first stream, has a copy of what there was in memory then, and
no file but the line to the process that asks; streams are files in memory that both have open, so that nothing is
copied.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tenseal import sealapi

from ppml.aggregation.seal_serialization import temporary_file, descriptor_path
from ppml.aggregation.seal_streams import CiphertextFormat, SwitchingKeyFormat, parms_id_bytes
from ppml.errors import InvalidUpdate

OBJECT_TYPES: tuple[type, ...] = (sealapi.Ciphertext, sealapi.PublicKey, sealapi.RelinKeys, sealapi.GaloisKeys)

CPU_SECONDS, BYTES_PER_CPU_SECOND = 2, 4 << 20
"""How long a stream may be read for: so many seconds of a processor, and one more for so many bytes."""

WAIT_SECONDS = 60.0
"""As many times the processor's seconds as a busy machine may take."""

EXTRA_MEMORY, EXTRA_MEMORY_PER_BYTE = 256 << 20, 8
"""How much more memory than before a stream may take: so many bytes, and so many for each of its own."""

ATTEMPTS = 2
"""In how many processes a stream is tried before it is refused since they ended."""

BATCH_STREAMS, BATCH_BYTES = 32, 4 << 20
"""Streams that it is given at once: so many, and of so many bytes, but for the last."""

_REPLY_BYTES = 1 << 12

_REQUEST = struct.Struct("<BBQ")
"""Which of :data:`OBJECT_TYPES`, how many, and of how many bytes together."""

SEAL_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What SEAL's reader, and its calculations, raise at streams that they cannot take."""


Shape = CiphertextFormat | SwitchingKeyFormat
Stream = bytes | memoryview


def read(one: Any, shape: Shape, stream: Stream) -> Any:
    """Read what somebody else says is a ciphertext or a key of ``shape`` into ``one``, a new one, and return it.

    Raises
    ------
    InvalidUpdate
        It is none; the message says why.
    """
    (one,) = read_all(lambda: one, shape, [stream])
    return one


def read_all(make: Callable[[], Any], shape: Shape, streams: Iterable[Stream], *, again: bool = False) -> Iterator[Any]:
    """Yield what is in streams that are said to be of ``shape``, each in an object that ``make`` makes.

    See :func:`read`. Where the same bytes were read before, ``again`` spares the other process.
    """
    for group in _batches(map(shape.uncompressed, streams)):
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(temporary_file(parts)) for parts in group]
            made = [make() for _ in files]
            if not again:
                size = sum(len(part) for parts in group for part in parts)
                why = _reader_of(shape.context).why_not(type(made[0]), [number for number, _ in files], size)
                if why:
                    raise InvalidUpdate(f"SEAL cannot read it: {why}")
            for one, (_, path) in zip(made, files, strict=True):
                try:
                    one.load(shape.context, path)
                except SEAL_ERRORS as error:
                    raise InvalidUpdate(f"SEAL cannot read it: {error}") from None
        yield from made


def _batches(each: Iterable[Sequence[bytes]]) -> Iterator[list[Sequence[bytes]]]:
    """Yield what is given to the other process at once."""
    group, size = list[Sequence[bytes]](), 0
    for parts in each:
        group.append(parts)
        size += sum(map(len, parts))
        if len(group) == BATCH_STREAMS or size >= BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class SandboxedReader:
    """Reads streams of one ring in a process that may end; it ends with the one that asks, at the latest.

    Parameters
    ----------
    context : SEALContext
        The ring; it is not kept.

    Attributes
    ----------
    context : weakref to SEALContext
        The one that it was asked for last.
    users : set of int
        Which objects of the same ring there are, by their identities.
    """

    def __init__(self, context: sealapi.SEALContext) -> None:
        self.context = weakref.ref(context)
        self.users: set[int] = set()
        self._turn = threading.Lock()
        self._process: tuple[int, socket.socket] | None = None

    def why_not(self, kind: type, files: Sequence[int], size: int) -> str:
        """Return why SEAL cannot read some open ``files``, of ``size`` bytes together; nothing where it can."""
        with self._turn:
            # Where it ended by a fault of the machine's, or since it was forked at a bad moment, another one can.
            for _ in range(ATTEMPTS):
                answer = self._answer(_REQUEST.pack(OBJECT_TYPES.index(kind), len(files), size), files, size)
                if answer:
                    return answer[1:].decode(errors="replace")
                why = self._end()
        return why

    def _answer(self, asked: bytes, files: Sequence[int], size: int) -> bytes:
        """Return what the process says; nothing where it has ended, or says nothing in time."""
        if self._process is None:
            self._process = self._start()
        _, line = self._process
        seconds = WAIT_SECONDS * (1 + size / BYTES_PER_CPU_SECOND)
        try:
            socket.send_fds(line, [asked], files)
            return line.recv(_REPLY_BYTES) if select.select([line], [], [], seconds)[0] else b""
        except OSError:
            return b""

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._end()

    def _end(self) -> str:
        """End the process, and return in words how it ended."""
        assert self._process is not None
        process, line = self._process
        self._process = None
        line.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return _describe_end(process)

    def forget(self) -> None:
        """Leave the process to the one that has started it: this one was forked from that."""
        if self._process is not None:
            self._process[1].close()
            self._process = None

    def _start(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        context = self.context()
        assert context is not None
        process = os.fork()
        if process == 0:
            _serve(theirs, context)
        theirs.close()
        return process, ours


_readers: dict[bytes, SandboxedReader] = {}


def _reader_of(context: sealapi.SEALContext) -> SandboxedReader:
    """Return the reader of a ring in this process."""
    ring = parms_id_bytes(context.key_parms_id())
    reader = _readers.setdefault(ring, SandboxedReader(context))
    reader.context = weakref.ref(context)
    if id(context) not in reader.users:
        reader.users.add(id(context))
        weakref.finalize(context, _remove_user, ring, id(context)).atexit = False
    return reader


def _remove_user(ring: bytes, user: int) -> None:
    """End the reader of a ring that nothing in this process is of any more."""
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


# A process that is forked later starts its own: two that ask on one line would read each other's answers.
os.register_at_fork(after_in_child=_forget_readers)


def _describe_end(process: int) -> str:
    """Return in words how a process ended."""
    try:
        _, status = os.waitpid(process, 0)
    except ChildProcessError:
        return "the process that read it is gone"
    code = os.waitstatus_to_exitcode(status)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"the process that read it ended {how}"


def _serve(line: socket.socket, context: sealapi.SEALContext) -> NoReturn:
    """Say of streams whether they can be read, until nobody is left to ask."""
    code = 1
    try:
        _close_all_but(line.fileno())
        most = 0
        while True:
            asked, files, _, _ = socket.recv_fds(line, _REQUEST.size, BATCH_STREAMS)
            if not asked:
                code = 0
                break
            kind, count, size = _REQUEST.unpack(asked)
            _limit_time(size)
            if size > most:
                _limit_memory(size)
                most = size
            said = "files are missing" if len(files) < count else _try_to_load(OBJECT_TYPES[kind], context, files)
            line.send(b"." + said.encode())
            for number in files:
                os.close(number)
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
    """Keep no file of the process that this one is a copy of, and none of its ways to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    most = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, number)
    os.closerange(number + 1, most)
    # SEAL's secrets may be in what is copied.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(size: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS + size // BYTES_PER_CPU_SECOND
    _limit(resource.RLIMIT_CPU, seconds)


def _limit_memory(size: int) -> None:
    """Let streams of ``size`` bytes take no more memory than that calls for, where the system tells what there is."""
    if used := _memory_in_use():
        _limit(resource.RLIMIT_AS, used + EXTRA_MEMORY + EXTRA_MEMORY_PER_BYTE * size)


def _limit(which: int, soft: int) -> None:
    _, hard = resource.getrlimit(which)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _memory_in_use() -> int:
    """Return how many bytes of addresses this process has; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
