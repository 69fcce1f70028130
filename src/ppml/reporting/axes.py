"""The axes of figures: accuracy, logarithmic in the error; epsilon, logarithmic with positions of 0 and infinity."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.formatting import INFINITE, distinct, evaluated_nouns, thousands
from ppml.reporting.leading_metric import metric_title

SCALED = "logarithmic in the error"
"""Last words of the label of an axis of accuracy: readable differences at both 80 % and 99 %."""

SHARE_OF_INTERVALS = 0.3
"""Largest part of the axis beyond the values that intervals may add at an end, in terms of the span of the values."""

LEAST_SHARE = 0.3
"""The same in tenths of the error, for values that are close together."""

LEAST_ERROR = 0.01
"""Least error in percent on the axis: an error of 0 has no logarithm."""

TICKS = (
    *(90, 99, 99.9, 50, 80, 98, 99.5, 95, 0, 70, 97, 99.8, 98.5),
    *(85, 60, 30, 96, 94, 92, 99.7, 88, 75, 97.5, 98.8, 99.3),
)
"""Ticks in the order of their importance: a later one is omitted if it has no room."""

CLOSEST, CLOSEST_SMALL = 0.05, 0.1
"""Least distance of neighbouring ticks, as a fraction of the axis; of a small panel."""

GAP = 0.09
"""Distance between 0, or infinity, and its neighbour, as a fraction of the decades shown."""

LEAST_GAP = 0.12
"""The smallest such distance, in decades."""

NARROW = 5.0
"""Largest ratio of the ends of an axis with a tick at each digit."""

LINEAR_RATIO = 5.0
"""Largest ratio of the epsilons above 0 on a linear axis."""

DIGITS = {"x": (1, 2, 3, 5), "y": (1, 2, 5)}
"""Digits with a tick in each decade, by axis."""


def error_axis(ax: Axes, accuracies: Iterable[float], ends: Iterable[float] = (), closest: float = CLOSEST) -> None:
    """Scale the vertical axis of ``ax`` by the logarithm of the error.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Panel with accuracies in percent; a higher point stays a better one.
    accuracies : iterable of float
        All values, in percent; each is within the axis.
    ends : iterable of float
        Ends of intervals, in percent. A long interval leaves the axis, so that it cannot hide the values.
    closest : float
        Least distance of neighbouring ticks, as a fraction of the axis.
    """
    shown = _up(np.clip(np.asarray(list(accuracies), dtype=np.float64), 0, 100))
    reach = max(LEAST_SHARE, SHARE_OF_INTERVALS * float(np.ptp(shown)))
    both = _up(np.clip(np.asarray([*ends], dtype=np.float64), 0, 100)).clip(shown.min() - reach, shown.max() + reach)
    lowest, highest = min([*shown, *both]), max([*shown, *both])
    margin = 0.05 * (highest - lowest) + 0.02
    ends = (lowest - margin, highest + margin)
    ax.set_yscale("function", functions=(_up, _down))
    ax.set_ylim(max(0.0, float(_down(ends[0]))), float(_down(ends[1])))
    ax.yaxis.set_major_locator(FixedLocator(_ticks(*ax.get_ylim(), closest)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def score_label(view: ExperimentView, records: pd.DataFrame) -> str:
    """Return the label of the axis: number and kind of the images, and the scale."""
    mine = view.rows_of(records)
    sizes, kinds = distinct(mine["n_test_all"], thousands, " or "), evaluated_nouns(mine)
    return f"{metric_title(view.metric)} on all {sizes} {kinds} (%)\n{SCALED}"


def _up(accuracy: ArrayLike) -> NDArray[np.float64]:
    """Return the height of an accuracy; one unit more means a tenth of the error."""
    error = np.maximum(100.0 - np.asarray(accuracy, dtype=np.float64), LEAST_ERROR)
    return np.asarray(2.0 - np.log10(error))


def _down(height: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(100.0 - 10.0 ** (2.0 - np.asarray(height, dtype=np.float64)))


def _ticks(bottom: float, top: float, closest: float) -> list[float]:
    """Return the members of :data:`TICKS` that have room."""
    least = closest * float(_up(top) - _up(bottom))
    kept: list[float] = []
    for tick in TICKS:
        if bottom <= tick <= top and all(abs(float(_up(other) - _up(tick))) >= least for other in kept):
            kept.append(tick)
    return sorted(kept)


@dataclass(frozen=True)
class EpsilonScale:
    """Positions of epsilons on an axis."""

    low: float
    high: float
    """Ends of the logarithmic part, positive and finite; or of a linear axis."""
    zero: float | None = None
    infinite: float | None = None
    """Positions of 0 and infinity, beyond these ends; None if they have no position of their own."""
    numbered: bool = True
    """Whether an epsilon is on the logarithmic part; without one it has no ticks."""
    note: str = " (log scale)"
    """Last words of the label of the axis."""

    @classmethod
    def of(cls, epsilons: Iterable[float], room: float) -> EpsilonScale:
        """Return the scale for ``epsilons``, at least 0, with a margin by the factor ``room`` at both ends."""
        shown = list(epsilons)
        # Without an epsilon that has a logarithm, any part of the axis will do.
        finite = with_logarithm(shown) or [1.0]
        low, high = min(finite) / room, max(finite) * room
        gap = 10 ** max(LEAST_GAP, GAP * math.log10(high / low))
        zero = low / gap if any(value == 0 for value in shown) else None
        return cls(low, high, zero, high * gap if any(map(math.isinf, shown)) else None, bool(with_logarithm(shown)))

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the axis."""
        low = self.low if self.zero is None else self.zero**2 / self.low
        return low, self.high if self.infinite is None else self.infinite**2 / self.high

    def place(self, epsilon: float) -> float:
        """Return the position of an epsilon, in the coordinates of the axis."""
        if epsilon == 0 and self.zero is not None:
            return self.zero
        if math.isinf(epsilon) and self.infinite is not None:
            return self.infinite
        return epsilon

    def name(self, place: float) -> str:
        """Return the text of a tick."""
        if place == self.zero:
            return "0"
        return INFINITE if place == self.infinite else f"{place:g}"

    def draw(self, ax: Axes, which: Literal["x", "y"]) -> None:
        """Scale an axis of ``ax``; a dotted line separates the logarithmic part from 0 or infinity."""
        axis, line = (ax.xaxis, ax.axvline) if which == "x" else (ax.yaxis, ax.axhline)
        ax.set(**{f"{which}scale": "log", f"{which}lim": self.ends})
        digits = tuple(range(1, 10)) if self.high < NARROW * self.low else DIGITS[which]
        ticks = LogLocator(subs=digits).tick_values(self.low, self.high)
        regular = [float(tick) for tick in ticks if self.low <= tick <= self.high]
        extra = [place for place in (self.zero, self.infinite) if place is not None]
        axis.set_major_locator(FixedLocator([*(regular if self.numbered else []), *extra]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: self.name(value)))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
        for place, end in ((self.zero, self.low), (self.infinite, self.high)):
            if place is not None and self.numbered:
                line(end, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0.6)


def scale_epsilons(
    ax: Axes, which: Literal["x", "y"], epsilons: Iterable[float], others: Iterable[float] = ()
) -> EpsilonScale:
    """Scale an axis from 0, or logarithmically if ``epsilons`` differ by more than :data:`LINEAR_RATIO`.

    Parameters
    ----------
    which : {"x", "y"}
        The axis of ``ax``.
    epsilons : iterable of float
        Values that decide between the scales.
    others : iterable of float
        Further values on the axis.
    """
    compared = list(epsilons)
    shown = [*compared, *others]
    finite = with_logarithm(compared)
    if any(map(math.isinf, shown)) or (finite and max(finite) > LINEAR_RATIO * min(finite)):
        scale = EpsilonScale.of(shown, room=1.08)
        scale.draw(ax, which)
        return scale
    axis = ax.xaxis if which == "x" else ax.yaxis
    top = max(shown) or 1.0
    # A mark at 0 must not be cut in half.
    scale = EpsilonScale(-0.02 * top if 0 in shown else 0, 1.06 * top, note="")
    ax.set(**{f"{which}lim": scale.ends})
    axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: scale.name(value)))
    return scale


def with_logarithm(epsilons: Iterable[float]) -> list[float]:
    """Return the epsilons above 0 and finite."""
    return [value for value in epsilons if 0 < value < math.inf]
