"""A logarithmic axis of epsilon, with separate positions for 0 and infinity, which have no logarithm."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ppml.reporting.formatting import INFINITE

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


@dataclass(frozen=True)
class EpsilonScale:
    """Positions of epsilons on an axis.

    Parameters
    ----------
    low, high : float
        Ends of the logarithmic part, positive and finite; or of a linear axis.
    zero, infinite : float or None
        Positions of 0 and infinity, beyond these ends; None if they have no position of their own.
    numbered : bool
        Whether an epsilon is on the logarithmic part; without one it has no ticks.
    note : str
        Last words of the label of the axis.
    """

    low: float
    high: float
    zero: float | None = None
    infinite: float | None = None
    numbered: bool = True
    note: str = " (log scale)"

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
