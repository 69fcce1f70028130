"""A calculation for each of many items in several processes, with progress lines."""

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
"""Seconds between two progress lines."""


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
        Function of one item; with several workers it must pickle, as must items and values.
    items : iterable
        Items; equal ones are calculated once.
    workers : int
        Number of processes; 1: this process.
    label : str
        Name of the calculation in the progress lines.
    report : callable
        Called with a progress line every `REPORT_SECONDS`.

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
    # Forked processes import nothing again, and each uses one thread, as this one does.
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
    """Prepare a process: Ctrl-C is for its parent, and it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent(parent)
