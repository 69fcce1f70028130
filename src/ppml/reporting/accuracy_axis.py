"""An axis of accuracy with readable differences at both 80 % and 99 %: logarithmic in the error."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.formatting import distinct, images_name, thousands

SCALED = "logarithmic in the error"
"""Last words of the label of such an axis."""

LEAST_ERROR = 0.01
"""Least error in percent on the axis: an error of 0 has no logarithm."""

TICKS = (
    *(90, 99, 99.9, 50, 80, 98, 99.5, 95, 0, 70, 97, 99.8, 98.5),
    *(85, 60, 30, 96, 94, 92, 99.7, 88, 75, 97.5, 98.8, 99.3),
)
"""Ticks in the order of their importance: a later one is omitted if it has no room."""

CLOSEST = 0.05
"""Least distance of neighbouring ticks, as a fraction of the axis."""


def error_axis(ax: Axes, accuracies: Iterable[float]) -> None:
    """Scale the vertical axis of ``ax`` by the logarithm of the error.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Panel with accuracies in percent; a higher point stays a better one.
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


def accuracy_label(view: ExperimentView, records: pd.DataFrame) -> str:
    """Return the label of the axis: number and kind of the images, and the scale."""
    mine = view.rows_of(records)
    sizes, kinds = distinct(mine["n_test_all"], thousands, " or "), distinct(mine["evaluated_on"], images_name, " or ")
    return f"Accuracy on all {sizes} {kinds} (%)\n{SCALED}"


def _up(accuracy: ArrayLike) -> NDArray[np.float64]:
    """Return the height of an accuracy; one unit more means a tenth of the error."""
    error = np.maximum(100.0 - np.asarray(accuracy, dtype=np.float64), LEAST_ERROR)
    return np.asarray(2.0 - np.log10(error))


def _down(height: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(100.0 - 10.0 ** (2.0 - np.asarray(height, dtype=np.float64)))


def _ticks(bottom: float, top: float) -> list[float]:
    """Return the members of :data:`TICKS` that have room."""
    least = CLOSEST * float(_up(top) - _up(bottom))
    kept: list[float] = []
    for tick in TICKS:
        if bottom <= tick <= top and all(abs(float(_up(other) - _up(tick))) >= least for other in kept):
            kept.append(tick)
    return sorted(kept)
