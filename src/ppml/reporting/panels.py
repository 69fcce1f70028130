"""Elements that figures share: panels, error bars, annotations and legends."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Annotation

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.formatting import wrapped
from ppml.reporting.statistics import Estimate
from ppml.reporting.style import dodge, figure_style, new_figure

COLUMNS = 4
"""Largest number of small panels side by side."""

TITLE_WIDTH = 26
"""Characters of a line of their titles, with as many columns."""

SMALL_PANEL = 1.5
"""Inches of a small panel with its title and axis."""

LINE_HEIGHT = 9.5
"""Points of a line of a label."""

NOTE_WIDTH = 110
"""Characters of a line of a note below the panels."""


@contextmanager
def panels(
    view: ExperimentView,
    quantity: str,
    height: float,
    rows: int = 1,
    columns: int = 1,
    **layout: Any,
) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure in the project's style and its panels, as :meth:`matplotlib.figure.Figure.subplots` returns them.

    Parameters
    ----------
    quantity : str
        The quantity that the figure shows, for its title.
    height : float
        Height of the figure in inches, with title and legend.
    layout : object
        Further options of :meth:`matplotlib.figure.Figure.subplots`.
    """
    with figure_style():
        figure = new_figure(view, quantity, height)
        yield figure, figure.subplots(rows, columns, **layout)


@contextmanager
def small_panels(
    view: ExperimentView, quantity: str, titles: Sequence[str], **layout: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure with a small panel for each of ``titles``, in rows of at most :data:`COLUMNS`."""
    columns = min(COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    titles = [wrapped(title, TITLE_WIDTH * COLUMNS // columns) for title in titles]
    lines = max(title.count("\n") for title in titles)
    # One row has the height for a taller panel.
    height = 0.75 + (SMALL_PANEL + 0.12 * lines) * rows + 0.8 * (rows == 1)
    with panels(view, quantity, height, rows, columns, squeeze=False, **layout) as (drawing, axes):
        for ax in axes.flat[len(titles) :]:
            ax.remove()
        used = list(axes.flat[: len(titles)])
        for ax, title in zip(used, titles, strict=True):
            ax.set_title(title, fontsize=7, loc="left")
        yield drawing, used


def ends_of(estimates: Iterable[Estimate]) -> list[float]:
    """Return both ends of each interval, in percent."""
    return [100 * end for one in estimates for end in (one.low, one.high)]


def means_of(estimates: Iterable[Estimate]) -> list[float]:
    """Return each mean in percent."""
    return [100 * one.mean for one in estimates]


def draw_estimates(ax: Axes, places: Sequence[float], estimates: Sequence[Estimate], **look: Any) -> None:
    """Draw means in percent with their intervals, at ``places`` on the horizontal axis.

    The vertical axis has its limits already; a triangle at its end marks an interval that leaves it.
    """
    low, mean, high = 100 * np.array([(one.low, one.mean, one.high) for one in estimates]).T
    ax.errorbar(places, mean, yerr=[mean - low, high - mean], **{"capsize": 2.5, **look})
    bottom, top = ax.get_ylim()
    for place, least, most in zip(places, low, high, strict=True):
        for cut, end, marker in ((least < bottom, 0.0, "v"), (most > top, 1.0, "^")):
            if cut:
                mark_cut(ax, place, end, marker, look["color"])


def mark_cut(ax: Axes, place: float, end: float, marker: str, colour: str) -> None:
    """Mark an interval that leaves the axis at ``end``, 0 at the bottom or 1 at the top."""
    across = ax.get_xaxis_transform()
    ax.plot(place, end, marker, color=colour, markersize=4, clip_on=False, transform=across, zorder=6, gid="cut")


def annotate(ax: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any) -> Annotation:
    """Write a small text at a distance of ``offset`` points from ``at``."""
    return ax.annotate(text, at, offset, textcoords="offset points", **{"fontsize": 7, **look})


def separate(drawing: Figure, ax: Axes, labels: Sequence[Annotation]) -> None:
    """Move overlapping labels up or down; each is at the height of its point, in the coordinates of the data."""
    # Only the finished layout has the height of the axis in points.
    drawing.draw_without_rendering()
    scale = 72 / drawing.dpi
    heights = [float(ax.transData.transform((1.0, label.xy[1]))[1]) * scale for label in labels]
    sizes = [LINE_HEIGHT * (1 + label.get_text().count("\n")) for label in labels]
    for label, height, moved in zip(labels, heights, dodge(heights, sizes), strict=True):
        label.set_position((label.get_position()[0], moved - height))


def legend_below(figure: Figure, handles: Sequence[Artist], **options: Any) -> Legend:
    """Put a legend below all panels."""
    return figure.legend(handles=list(handles), **{"loc": "outside lower center", **options})


def note(text: str) -> str:
    """Return a note below the panels in lines that fit in the figure."""
    return textwrap.fill(text, NOTE_WIDTH)


def shared_entries(axes: Iterable[Axes]) -> dict[str, Artist]:
    """Return the legend entries of several panels, each label once."""
    return {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}


def seeds_text(counts: Iterable[int]) -> str:
    """Return the number of seeds of several means.

    Examples
    --------
    >>> seeds_text([1]), seeds_text([3, 3]), seeds_text([5, 1])
    ('One seed', 'Mean of 3 seeds', 'Mean of 1 to 5 seeds')
    """
    seeds = sorted(set(counts))
    if seeds == [1]:
        return "One seed"
    return f"Mean of {seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"Mean of {seeds[0]} seeds"


def interval_text(estimates: Iterable[Estimate], shape: str = "bars") -> str:
    """Return the number of seeds, and the meaning of the intervals that ``shape`` draws.

    Examples
    --------
    >>> interval_text([Estimate(0.9, 0.01, 2, 0.89, 0.91, "range")])
    'Mean of 2 seeds; bars: lowest to highest'
    """
    found = list(estimates)
    kinds = {one.kind: one.n for one in sorted(found, key=lambda one: one.n)}
    several = len(kinds) > 1
    texts = {
        "t": "95 % interval over the seeds (Student's t)",
        "range": "lowest to highest" + " of 2 seeds" * several,
        "wilson": "over the examples (Wilson) with one seed" if several else "95 % interval over the examples (Wilson)",
        "examples": "over the examples with one seed" if several else "95 % interval over the examples",
        "none": "none with one seed",
    }
    shown = [texts[kind] for kind in texts if kind in kinds]
    meaning = f"no {shape}" if set(kinds) == {"none"} else f"{shape}: {', '.join(shown)}"
    return f"{seeds_text(one.n for one in found)}; {meaning}"
