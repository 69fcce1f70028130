"""An axis of epsilon: logarithmic, with places of their own for 0 and for infinity, which have no logarithm."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from ppml.reporting.formatting import INFINITE

APART = 0.09
"""Share of the decades shown that 0, or infinity, is away from its nearest neighbour."""

LEAST_APART = 0.12
"""The same in decades, where few are shown."""

NARROW = 5.0
"""Below this ratio of its ends an axis has a tick at each digit."""


@dataclass(frozen=True)
class EpsilonScale:
    """Where each epsilon stands on a logarithmic axis.

    Parameters
    ----------
    low, high : float
        Ends of the logarithmic part, positive and finite.
    zero, infinite : float or None
        Where 0 and infinity stand, beyond these ends; None where the axis has no place for them.
    """

    low: float
    high: float
    zero: float | None
    infinite: float | None

    @classmethod
    def of(cls, epsilons: Iterable[float], room: float) -> EpsilonScale:
        """Return the scale that shows ``epsilons``, at least 0, with a margin by the factor ``room`` at both ends."""
        shown = list(epsilons)
        # Where there is none that has a logarithm, any part of the axis does.
        finite = [value for value in shown if 0 < value < math.inf] or [1.0]
        low, high = min(finite) / room, max(finite) * room
        gap = 10 ** max(LEAST_APART, APART * math.log10(high / low))
        zero = low / gap if any(value == 0 for value in shown) else None
        return cls(low, high, zero, high * gap if any(map(math.isinf, shown)) else None)

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the axis."""
        low, high = self.low, self.high
        if self.zero is not None:
            low = self.zero**2 / self.low
        if self.infinite is not None:
            high = self.infinite**2 / self.high
        return low, high

    def place(self, epsilon: float) -> float:
        """Return where an epsilon stands, in the coordinates of the axis."""
        if epsilon == 0 and self.zero is not None:
            return self.zero
        if math.isinf(epsilon) and self.infinite is not None:
            return self.infinite
        return epsilon

    def name(self, place: float) -> str:
        """Return what a tick says."""
        if place == self.zero:
            return "0"
        return INFINITE if place == self.infinite else f"{place:g}"

    def draw(self, ax: Axes, which: Literal["x", "y"], subs: tuple[int, ...], *, ticks: bool = True) -> None:
        """Scale an axis of ``ax``; a dotted line is where the logarithm ends and the place of 0 or infinity begins.

        Parameters
        ----------
        ax : matplotlib.axes.Axes
            Its limits are set.
        which : {"x", "y"}
            The axis.
        subs : tuple of int
            Digits that have a tick in each decade.
        ticks : bool
            Whether the logarithmic part has ticks: not where no epsilon is on it.
        """
        axis, line = (ax.xaxis, ax.axvline) if which == "x" else (ax.yaxis, ax.axhline)
        scale, limit = (ax.set_xscale, ax.set_xlim) if which == "x" else (ax.set_yscale, ax.set_ylim)
        scale("log")
        limit(*self.ends)
        digits = tuple(range(1, 10)) if self.high < NARROW * self.low else subs
        regular = [tick for tick in _ticks(self.low, self.high, digits) if self.low <= tick <= self.high]
        extra = [place for place in (self.zero, self.infinite) if place is not None]
        axis.set_major_locator(FixedLocator([*(regular if ticks else []), *extra]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: self.name(value)))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
        for place, end in ((self.zero, self.low), (self.infinite, self.high)):
            if place is not None and ticks:
                line(end, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0.6)


def _ticks(low: float, high: float, subs: tuple[int, ...]) -> list[float]:
    return [float(tick) for tick in LogLocator(subs=subs).tick_values(low, high)]


def has_logarithm(epsilons: Iterable[float]) -> bool:
    """Say whether any epsilon is above 0 and finite."""
    return any(0 < value < math.inf for value in epsilons)
