"""The choice of the examples that train and test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def select_subset(labels: NDArray[np.int64], count: int, selection: str) -> NDArray[np.int64]:
    """Return the positions of ``count`` examples, in ascending order; of all, if there are fewer.

    Parameters
    ----------
    labels : int64 array, shape ``(n,)``
    count : int
        The number of examples.
    selection : {"first", "stratified"}
        The first examples, as in the papers, or the first ones of each class in proportion to its size.

    Returns
    -------
    int64 array, shape ``(min(count, n),)``
    """
    count = min(count, len(labels))
    if selection == "first":
        return np.arange(count)
    classes, totals = np.unique(labels, return_counts=True)
    exact = count * totals / len(labels)
    quota = np.floor(exact).astype(int)
    # The largest remainders get the examples that rounding down leaves; a stable sort makes ties repeatable.
    for place in np.argsort(quota - exact, kind="stable")[: count - quota.sum()]:
        quota[place] += 1
    chosen = [np.flatnonzero(labels == cls)[:size] for cls, size in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(chosen))
