"""The main figure of the HTML report: accuracy against epsilon of every arm, as positions for a drawing in SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from ppml.reporting.axes import EpsilonScale
from ppml.reporting.formatting import percent

WIDTH, HEIGHT = 860.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 14.0, 52.0
RADIUS = 6.0
"""Half the size of a marker."""
BAND = 210.0
"""The width of the band of arms without differential privacy."""
LEAST_ERROR = 0.05
"""Percent: the smallest error on the logarithmic axis."""
ROOM = 1.3
"""The factor between the error of an arm and the ends of the axis."""
ERRORS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 80)
"""Percent: the errors with a tick."""


@dataclass(frozen=True)
class Point:
    """An arm in the figure."""

    arm: str
    epsilon: float
    """Infinite without privacy."""
    accuracy: float
    """A fraction."""
    low: float
    high: float
    """The ends of the bar; nan without one."""
    technique: str
    """Arms without privacy have a column for each technique."""


@dataclass(frozen=True)
class Placed:
    """The place of an arm in the drawing, in pixels."""

    x: float
    y: float
    low: float
    high: float
    """The ends of the vertical bar."""


@dataclass(frozen=True)
class Tick:
    """A tick of an axis."""

    place: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """The positions of all parts of the figure."""

    places: dict[str, Placed]
    """By arm."""
    across: list[Tick]
    up: list[Tick]
    band: tuple[float, float] | None
    """Left and right end of the band without privacy; None without such an arm."""


def draw(points: Sequence[Point]) -> Drawing:
    """Return the positions of ``points``, at least one.

    The axis of accuracy is logarithmic in the error, as in the other figures; an epsilon of 0 is at the left end.
    """
    bare = any(math.isinf(point.epsilon) for point in points)
    right = WIDTH - RIGHT - (BAND if bare and len(_finite(points)) else 0)
    scale = EpsilonScale.of(_finite(points) or [1.0], room=1.25)
    low, high = (math.log10(end) for end in scale.ends)
    columns = _columns(points, right)

    def across(epsilon: float) -> float:
        return LEFT + (right - LEFT) * (math.log10(scale.place(epsilon)) - low) / (high - low)

    # The arms alone decide the axis: a wide interval ends at its edge.
    errors = [_error(point.accuracy) for point in points]
    worst, best = min(100.0, max(errors) * ROOM), max(LEAST_ERROR, min(errors) / ROOM)

    def up(accuracy: float) -> float:
        part = math.log(worst / min(worst, max(best, _error(accuracy)))) / math.log(worst / best)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part

    places = {}
    for point in points:
        x = columns[point.technique] if math.isinf(point.epsilon) else across(point.epsilon)
        ends = (point.accuracy if math.isnan(end) else end for end in (point.low, point.high))
        places[point.arm] = Placed(x, up(point.accuracy), *map(up, ends))
    return Drawing(
        places,
        [Tick(across(value), scale.name(value)) for value in _ticks(points)],
        [Tick(up(1 - error / 100), percent(1 - error / 100, 1 if error < 1 else 0)) for error in ERRORS
         if best <= error <= worst],
        (right if len(_finite(points)) else LEFT, WIDTH - RIGHT) if bare else None,
    )  # fmt: skip


def _finite(points: Iterable[Point]) -> list[float]:
    return [point.epsilon for point in points if math.isfinite(point.epsilon)]


def _error(accuracy: float) -> float:
    return max(LEAST_ERROR, 100 * (1 - accuracy))


def _ticks(points: Sequence[Point]) -> list[float]:
    """Return the epsilons with a tick: those of arms, far enough from each other, on the logarithmic axis."""
    chosen: list[float] = []
    for value in sorted({float(f"{epsilon:.2g}") for epsilon in _finite(points)}):
        if not chosen or chosen[-1] == 0 or value / chosen[-1] >= 1.3:
            chosen.append(value)
    return chosen


def _columns(points: Sequence[Point], right: float) -> dict[str, float]:
    """Return the position of each technique in the band of arms without privacy."""
    names = list(dict.fromkeys(point.technique for point in points if math.isinf(point.epsilon)))
    left = right if len(_finite(points)) else LEFT
    step = (WIDTH - RIGHT - left) / max(1, len(names))
    return {name: left + step * (place + 0.5) for place, name in enumerate(names)}


def marker_path(marker: str) -> str:
    """Return the outline of a marker of matplotlib as the data of an SVG path, around 0.

    Examples
    --------
    >>> marker_path("s")
    'M-6 6L6 6L6 -6L-6 -6Z'
    """
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    size = float(np.abs(np.asarray(path.vertices, dtype=float)).max())
    texts = []
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    for vertices, code in path.iter_segments(simplify=False):
        if code == Path.CLOSEPOLY:
            texts.append("Z")
            continue
        scaled = [RADIUS * value / size for value in vertices]
        # The axis of SVG points down.
        numbers = [f"{round(-value if place % 2 else value, 2) + 0.0:g}" for place, value in enumerate(scaled)]
        texts.append(letters[code] + " ".join(numbers))
    return "".join(texts)
