"""A parallel map in several processes with progress lines."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from ppml.ipc.parent_watch import exit_with_parent

Item = TypeVar("Item", bound=Hashable)
Value = TypeVar("Value")

REPORT_SECONDS = 10.0
"""The seconds between two progress lines."""


def parallel_map(
    calculate: Callable[[Item], Value],
    items: Iterable[Item],
    workers: int,
    label: str,
    report: Callable[[str], None] = lambda line: print(line, flush=True),
) -> dict[Item, Value]:
    """Return ``calculate(item)`` for each distinct item; the values do not depend on ``workers``.

    Parameters
    ----------
    calculate : callable
        The function of one item; with several workers, the function, items and values must be picklable.
    items : iterable
        The items; equal items are calculated once.
    workers : int
        The number of processes; 1: this process.
    label : str
        The name of the calculation in the progress lines.
    report : callable
        The function that receives a progress line every ``REPORT_SECONDS``.

    Raises
    ------
    Exception
        The error of the first item that fails; the others are cancelled.

    Examples
    --------
    >>> parallel_map(abs, [3, -2, 3], 1, "sizes")
    {3: 3, -2: 2}
    """
    distinct = list(dict.fromkeys(items))
    started = reported = time.monotonic()

    def count(done: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported >= REPORT_SECONDS:
            reported = now
            remaining = (now - started) / done * (len(distinct) - done)
            report(f"{label}: {done} of {len(distinct)}, about {remaining:.0f} s left")

    values: dict[Item, Value] = {}
    if min(workers, len(distinct)) <= 1:
        for done, item in enumerate(distinct, start=1):
            values[item] = calculate(item)
            count(done)
        return values
    # Forked processes repeat no import, and each uses one thread like this process.
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(
        min(workers, len(distinct)), mp_context=fork, initializer=_initialize, initargs=(os.getpid(),)
    )
    try:
        futures = [pool.submit(calculate, item) for item in distinct]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            count(done)
        return {item: future.result() for item, future in zip(distinct, futures, strict=True)}
    finally:
        pool.shutdown(cancel_futures=True)


def _initialize(parent: int) -> None:
    """Prepare a process: it ignores Ctrl-C and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent(parent)
