"""The same calculation for each of many owners, by several processes, with a line about how far it is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)
Value = TypeVar("Value")

TELL_SECONDS = 10.0
"""Between two lines about how far it is."""


def of_each(
    calculate: Callable[[Item], Value],
    items: Iterable[Item],
    workers: int,
    what: str,
    tell: Callable[[str], None] = lambda line: print(line, flush=True),
) -> dict[Item, Value]:
    """Return ``calculate(item)`` for each different item; the values do not depend on ``workers``.

    Parameters
    ----------
    calculate : callable
        Of one item; with several workers it must pickle, as must items and values.
    items : iterable
        Equal ones are calculated once.
    workers : int
        In how many processes; 1: in this one.
    what : str
        What is calculated, for the lines.
    tell : callable
        Gets a line every `TELL_SECONDS`.

    Raises
    ------
    Exception
        What ``calculate`` raises for an item; the others are not waited for.

    Examples
    --------
    >>> of_each(abs, [3, -2, 3], 1, "sizes")
    {3: 3, -2: 2}
    """
    different = list(dict.fromkeys(items))
    started = told = time.monotonic()

    def count(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_SECONDS:
            told = now
            left = (now - started) / done * (len(different) - done)
            tell(f"{what}: {done} of {len(different)}, about {left:.0f} s left")

    found: dict[Item, Value] = {}
    if min(workers, len(different)) <= 1:
        for done, item in enumerate(different, start=1):
            found[item] = calculate(item)
            count(done)
        return found
    # Forked: nothing is imported again. Each process calculates on one thread, as this one does.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(min(workers, len(different)), mp_context=context, initializer=_begin)
    try:
        futures = [pool.submit(calculate, item) for item in different]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            count(done)
        return {item: future.result() for item, future in zip(different, futures, strict=True)}
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Prepare a process: Ctrl-C is for the one that started it, and it ends with that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
