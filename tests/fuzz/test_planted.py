"""The two guards against hostile SEAL streams, removed one after the other."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest

from ppml.aggregation import sandboxed_reader
from ppml.aggregation.envelope import header_of
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.lattice import split_length_prefixed
from ppml.aggregation.seal_streams import CiphertextFormat
from ppml.config.technique import Bfv, Ckks
from ppml.errors import InvalidUpdate

from ..aggregation.local import Local
from .mutations import claiming_to_be_compressed

SPECS = {"ckks": Ckks(), "bfv": Bfv()}


def stream_of(local: Local, sealed: ProtectedUpdate) -> bytes:
    """Return the one ciphertext of an update."""
    (one,) = split_length_prefixed(memoryview(sealed.payload)[44:])
    return bytes(one)


@contextmanager
def without_the_comparison() -> Iterator[None]:
    """Plant a fault: SEAL reads streams without validation."""
    with mock.patch.object(CiphertextFormat, "uncompressed", lambda shape, stream: [bytes(stream)]):
        yield


@contextmanager
def without_the_process() -> Iterator[None]:
    """Plant a fault: no sandbox reads streams first."""
    with mock.patch.object(sandboxed_reader.SandboxedReader, "find_error", lambda *given: ""):
        yield


def ending(faults: list[Callable[[], object]], spec: Ckks | Bfv) -> tuple[int, str]:
    """Return the exit status and the output of a process that receives such a ciphertext."""
    local = Local(spec, 3)
    server, honest = local.server(), local.protect(np.arange(10), 0, 1)
    stream = claiming_to_be_compressed(stream_of(local, honest))
    sealed = local.scheme.pack(local.fingerprint, 10, [stream], header_of(0, 1))
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(60)
        with ExitStack() as stack:
            for fault in faults:
                stack.enter_context(fault())  # type: ignore[arg-type]
            try:
                server.check(sealed, 0, 1)
            except InvalidUpdate as refusal:
                os.write(theirs, str(refusal).encode())
                # The process continues.
                server.check(honest, 0, 1)
                os._exit(0)
        os._exit(3)
    os.close(theirs)
    with open(ours, "rb") as file:  # noqa: PTH123
        said = file.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_each_of_two_guards_prevents_crash(spec: Ckks | Bfv) -> None:
    assert ending([], spec)[0] == 0
    assert ending([without_the_process], spec)[0] == 0
    code, said = ending([without_the_comparison], spec)
    assert code == 0 and "SIGABRT" in said
    assert ending([without_the_comparison, without_the_process], spec)[0] == -signal.SIGABRT
