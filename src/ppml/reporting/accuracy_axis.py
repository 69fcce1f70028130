"""An axis of accuracy on which both 80 % and 99 % can be read: logarithmic in the error."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from ppml.reporting.experiment_view import Selection
from ppml.reporting.formatting import IMAGES

SCALED = "logarithmic in the error"
"""What the label of such an axis ends with."""

LEAST_ERROR = 0.01
"""Percent: what is closer to 100 % is drawn here, or its logarithm would have no end."""

TICKS = (
    90,
    99,
    99.9,
    50,
    80,
    98,
    99.5,
    95,
    0,
    70,
    97,
    99.8,
    98.5,
    85,
    60,
    30,
    96,
    94,
    92,
    99.7,
    88,
    75,
    97.5,
    98.8,
    99.3,
)
"""Those that matter most come first: the others are left out where they have no room."""

CLOSEST = 0.05
"""Share of the axis that neighbouring ticks must be apart."""


def error_axis(ax: Axes, accuracies: Iterable[float]) -> None:
    """Scale the vertical axis of ``ax`` by the logarithm of the error, from the data to be shown.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Its values are accuracies in percent; higher stays better.
    accuracies : iterable of float
        All values and ends of intervals, in percent.
    """
    shown = np.asarray(list(accuracies), dtype=np.float64)
    lowest, highest = _up(shown.min()), _up(shown.max())
    margin = 0.05 * (highest - lowest) + 0.02
    ends = (lowest - margin, highest + margin)
    ax.set_yscale("function", functions=(_up, _down))
    ax.set_ylim(max(0.0, float(_down(ends[0]))), float(_down(ends[1])))
    ax.yaxis.set_major_locator(FixedLocator(_ticks(*ax.get_ylim())))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def accuracy_label(selection: Selection, records: pd.DataFrame) -> str:
    """Return what the axis of accuracy says: how many images of which kind, and how it is scaled."""
    mine = records[records["arm"].isin(list(selection.arms))]
    sizes = " or ".join(f"{size:,}" for size in dict.fromkeys(mine["n_test_all"]))
    kinds = " or ".join(IMAGES.get(name, name) for name in dict.fromkeys(mine["evaluated_on"]))
    return f"Accuracy on all {sizes} {kinds} (%)\n{SCALED}"


def _up(accuracy: ArrayLike) -> NDArray[np.float64]:
    """Return the height of an accuracy: one more is a tenth of the error."""
    error = np.maximum(100.0 - np.asarray(accuracy, dtype=np.float64), LEAST_ERROR)
    return np.asarray(2.0 - np.log10(error))


def _down(height: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(100.0 - 10.0 ** (2.0 - np.asarray(height, dtype=np.float64)))


def _ticks(bottom: float, top: float) -> list[float]:
    """Return those of :data:`TICKS` that have room."""
    least = CLOSEST * float(_up(top) - _up(bottom))
    kept: list[float] = []
    for tick in TICKS:
        if bottom <= tick <= top and all(abs(float(_up(other) - _up(tick))) >= least for other in kept):
            kept.append(tick)
    return sorted(kept)
