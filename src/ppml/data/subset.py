"""Which of the official images train and test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def choose(labels: NDArray[np.int64], count: int, choice: str) -> NDArray[np.int64]:
    """Return the positions of ``count`` examples, in ascending order; all of them where there are fewer.

    Parameters
    ----------
    labels : int64 array, shape ``(n,)``
    count : int
        How many to take.
    choice : {"first", "stratified"}
        The first ones, as the papers do, or the first of every class in proportion to its share.

    Returns
    -------
    int64 array, shape ``(min(count, n),)``
    """
    count = min(count, len(labels))
    if choice == "first":
        return np.arange(count)
    classes, totals = np.unique(labels, return_counts=True)
    exact = count * totals / len(labels)
    quota = np.floor(exact).astype(int)
    # Largest remainders get what rounding down left over; a stable sort makes ties repeatable.
    for place in np.argsort(quota - exact, kind="stable")[: count - quota.sum()]:
        quota[place] += 1
    chosen = [np.flatnonzero(labels == cls)[:size] for cls, size in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen))
