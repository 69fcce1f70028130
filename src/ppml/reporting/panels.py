"""Elements that figures share: panels, error bars, annotations and legends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Annotation

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.statistics import Estimate
from ppml.reporting.style import figure_style, new_figure

PANEL_HEIGHT = 2.9
"""Inches of a panel with curves, its title and its axis."""

ENTRY_HEIGHT = 0.165
"""Inches of a line of a legend."""


@contextmanager
def panels(
    view: ExperimentView, records: pd.DataFrame, height: float, rows: int = 1, columns: int = 1, **layout: Any
) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure in the project's style and its panels, as :meth:`matplotlib.figure.Figure.subplots` returns them.

    Parameters
    ----------
    height : float
        Height of the figure in inches, with title and legend.
    layout : object
        Further options of :meth:`matplotlib.figure.Figure.subplots`.
    """
    with figure_style():
        figure = new_figure(view, records, height)
        yield figure, figure.subplots(rows, columns, **layout)


def ends_of(estimates: Iterable[Estimate]) -> list[float]:
    """Return both ends of each interval, in percent."""
    return [100 * end for one in estimates for end in (one.low, one.high)]


def draw_estimates(ax: Axes, places: Sequence[float], estimates: Sequence[Estimate], **look: Any) -> None:
    """Draw means in percent with their intervals, at ``places`` on the horizontal axis."""
    low, mean, high = np.array([(one.low, one.mean, one.high) for one in estimates]).T
    ax.errorbar(places, 100 * mean, yerr=100 * np.array([mean - low, high - mean]), **{"capsize": 2.5, **look})


def annotate(ax: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any) -> Annotation:
    """Write a small text at a distance of ``offset`` points from ``at``."""
    return ax.annotate(text, at, offset, textcoords="offset points", **{"fontsize": 7, **look})


def legend_below(figure: Figure, handles: Sequence[Artist], **options: Any) -> Legend:
    """Put a legend below all panels."""
    return figure.legend(handles=list(handles), **{"loc": "outside lower center", **options})


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
