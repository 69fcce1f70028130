"""Published numbers as hollow points of the trade-off figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.formatting import percent
from ppml.reporting.literature import PublishedRow
from ppml.reporting.style import ArmStyle, dark

HOLLOW = ("o", "s", "^", "D", "v", "p", "h", "<", ">", "8")
GREY = "#555555"
LABEL_WIDTH = 48
"""Characters of a line in the legend."""


@dataclass(frozen=True)
class PublishedPoint:
    """A published accuracy (share, with the paper's ± or 0) at the paper's epsilon."""

    epsilon: float
    accuracy: float
    spread: float


@dataclass(frozen=True)
class AnsweredPoint:
    """A published point in the style of its arm."""

    paper: str
    style: ArmStyle
    point: PublishedPoint


@dataclass(frozen=True)
class PublishedSeries:
    """The points of one technique in a paper, without an arm, from the smallest epsilon."""

    label: str
    n_train: int | None
    points: tuple[PublishedPoint, ...]


def answered_points(
    view: ExperimentView, published: Mapping[str, PublishedRow], styles: Mapping[str, ArmStyle]
) -> list[AnsweredPoint]:
    """Return the published rows with epsilon and accuracy that an arm of this figure answers.

    Raises
    ------
    UserError
        A published row does not exist.
    """
    require_published(view, published)
    found: dict[str, AnsweredPoint] = {}
    for comparison in view.compare:
        row, style = published[comparison.published], styles.get(comparison.arm or "")
        if style is not None and (point := _point(row)):
            found.setdefault(comparison.published, AnsweredPoint(row.paper, style, point))
    return list(found.values())


def published_series(view: ExperimentView, published: Mapping[str, PublishedRow]) -> list[PublishedSeries]:
    """Return the rows without an arm, a series for each paper and technique; rows need epsilon and accuracy.

    Raises
    ------
    UserError
        A published row does not exist.
    """
    require_published(view, published)
    rows: dict[tuple[str, int | None], list[PublishedPoint]] = {}
    for key in view.published:
        row = published[key]
        if point := _point(row):
            doubt = ", ε disputed" if row.disputed else ""
            # An address would not fit; the table of published rows has it.
            source = f", {row.source}" if row.source and row.source.startswith("arXiv:") else ""
            rows.setdefault((f"{row.paper}: {row.technique}{doubt}{source}", row.n_train), []).append(point)
    return [
        PublishedSeries(label, n_train, tuple(sorted(points, key=lambda point: point.epsilon)))
        for (label, n_train), points in rows.items()
    ]


def _point(row: PublishedRow) -> PublishedPoint | None:
    if row.epsilon is None or row.accuracy is None:
        return None
    return PublishedPoint(row.epsilon, row.accuracy, row.std or 0.0)


def draw_answered(ax: Axes, points: Sequence[AnsweredPoint]) -> None:
    """Draw each point in the colour of its arm, with paper and number."""
    for answered in points:
        point, colour = answered.point, answered.style.colour
        # In the right half the text is on the left, so that it does not overlap the labels of the lines.
        side = -1 if ax.transAxes.inverted().transform(ax.transData.transform((point.epsilon, 50)))[0] > 0.5 else 1
        _draw_points(ax, [point], answered.style.marker, colour)
        ax.annotate(
            f"{answered.paper}: {percent(point.accuracy, 1)} %",
            xy=(point.epsilon, 100 * point.accuracy),
            xytext=(8 * side, 0),
            textcoords="offset points",
            color=dark(colour),
            fontsize=7.5,
            ha="left" if side > 0 else "right",
            va="center",
            zorder=4.5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )


def draw_series(ax: Axes, series: Sequence[PublishedSeries]) -> list[Artist]:
    """Draw each series in grey with its own marker, and return the entries of the legend, in order."""
    handles: list[Artist] = []
    for place, one in enumerate(series):
        marker = HOLLOW[place % len(HOLLOW)]
        _draw_points(ax, one.points, marker, GREY)
        if len(one.points) > 1:
            path = [[point.epsilon for point in one.points], [100 * point.accuracy for point in one.points]]
            ax.plot(*path, color=GREY, linestyle=(0, (1, 1.6)), linewidth=0.8, zorder=3)
        hollow = {"marker": marker, "markerfacecolor": "white", "markersize": 5.5, "markeredgewidth": 1.0}
        handles += ax.plot([], [], color=GREY, linestyle="none", label=textwrap.fill(one.label, LABEL_WIDTH), **hollow)  # type: ignore[arg-type]
    return handles


def _draw_points(ax: Axes, points: Sequence[PublishedPoint], marker: str, colour: str) -> None:
    for point in points:
        ax.errorbar(
            point.epsilon,
            100 * point.accuracy,
            yerr=100 * point.spread if point.spread else None,
            fmt=marker,
            color=colour,
            markerfacecolor="white",
            markersize=5.5,
            markeredgewidth=1.0,
            elinewidth=0.9,
            capsize=2,
            zorder=5,
        )
