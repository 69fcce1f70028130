"""A fuzzer that feeds mutated messages to readers in a child process, and measures crashes, time and memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from ppml.aggregation.sandboxed_reader import SandboxedReader

from .mutations import Mutator
from .targets import GROUPS, REFUSALS, Take, Target

Play = Callable[[Mutator], Take]


@dataclass
class Figures:
    """Results of some inputs.

    Parameters
    ----------
    name : str
        Name of the reader.
    inputs, taken, refused : int
        Number of inputs, of accepted and of refused ones.
    escaped : list of str
        Exceptions other than refusals.
    ends : int
        Number of sandbox processes that have ended.
    slowest, slowest_wall : float
        Seconds for one input, of a processor and of a clock.
    honest_memory, memory : int
        Largest additional memory in bytes, for honest inputs and for others.
    """

    name: str
    inputs: int = 0
    taken: int = 0
    refused: int = 0
    escaped: list[str] = field(default_factory=list)
    ends: int = 0
    slowest: float = 0.0
    slowest_wall: float = 0.0
    honest_memory: int = 0
    memory: int = 0

    def line(self) -> str:
        """Return the figures in one line."""
        return (
            f"{self.name}: {self.inputs} inputs, {self.taken} taken, {self.refused} refused, {len(self.escaped)} "
            f"escaped, {self.ends} readers ended, slowest {1e3 * self.slowest:.0f} ms of a processor "
            f"({1e3 * self.slowest_wall:.0f} ms), memory {self.memory / 2**20:.1f} MiB, with honest inputs "
            f"{self.honest_memory / 2**20:.1f} MiB"
        )


def fuzz(target: Target, count: int, seed: int) -> Figures:
    """Feed ``count`` mutated messages to ``target`` in this process."""
    figures, mutator = Figures(target.name), Mutator(seed)
    ended = SandboxedReader._end

    def counted(reader: SandboxedReader) -> str:
        figures.ends += 1
        return ended(reader)

    SandboxedReader._end = counted  # type: ignore[method-assign]
    try:
        # The first message fills caches.
        for _ in range(2):
            before = _memory("VmRSS")
            _forget_peak()
            target.honest()
            figures.honest_memory = max(figures.honest_memory, _memory("VmHWM") - before)
        for _ in range(count):
            take = target.changed(mutator)
            before = _memory("VmRSS")
            _forget_peak()
            _one(figures, take)
            figures.memory = max(figures.memory, _memory("VmHWM") - before)
        target.honest()
    finally:
        SandboxedReader._end = ended  # type: ignore[method-assign]
    return figures


def _one(figures: Figures, take: Take) -> None:
    started, on_clock = time.process_time(), time.perf_counter()
    try:
        take()
        figures.taken += 1
    except REFUSALS as refusal:
        figures.refused += 1
        if "\n" in str(refusal):
            figures.escaped.append(f"more than a line: {str(refusal)[:200]!r}")
    except Exception as error:
        figures.escaped.append(f"{type(error).__name__}: {str(error)[:200]}")
    figures.inputs += 1
    figures.slowest = max(figures.slowest, time.process_time() - started)
    figures.slowest_wall = max(figures.slowest_wall, time.perf_counter() - on_clock)


def fuzz_apart(group: str, count: int, seed: int) -> list[Figures]:
    """Feed ``count`` messages to each reader of a group, in a child process.

    Raises
    ------
    AssertionError
        The child process has ended.
    """
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    # Not a daemon, because readers start processes.
    process = fork.Process(target=_run, args=(GROUPS[group](), count, seed, theirs))
    process.start()
    theirs.close()
    found: list[Figures] = []
    try:
        while True:
            found.append(ours.recv())
    except EOFError:
        pass
    process.join()
    assert process.exitcode == 0, f"{group}: the process ended with {process.exitcode} after {len(found)} readers"
    return found


def _run(targets: Iterable[Target], count: int, seed: int, line: Connection) -> None:
    for number, target in enumerate(targets):
        line.send(fuzz(target, count, seed + number))


def _memory(what: str) -> int:
    """Return a memory statistic of this process in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{what}:"):
            return 1024 * int(line.split()[1])
    return 0


def _forget_peak() -> None:
    """Reset the system's record of the peak."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
